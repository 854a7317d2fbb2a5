package cli

// Commands is the table, in the order in which help lists it: the way of a
// project from nothing to a running image, then upkeep, then the program
// itself.
func Commands() []*Command {
	return []*Command{
		initCommand(),
		lockCommand(),
		planCommand(),
		buildCommand(),
		runCommand(),
		inspectCommand(),
		explainCommand(),
		signCommand(),
		attestCommand(),
		verifyCommand(),
		checkCommand(),
		rulesCommand(),
		scanCommand(),
		vulndbCommand(),
		serveCommand(),
		publishCommand(),
		releaseCommand(),
		revokeCommand(),
		rollbackCommand(),
		eraseCommand(),
		catalogCommand(),
		auditCommand(),
		keyCommand(),
		diffCommand(),
		demoCommand(),
		vaultCommand(),
		cacheCommand(),
		doctorCommand(),
		schemaCommand(),
		versionCommand(),
		completionCommand(),
		completeCommand(),
		manCommand(),
		helpCommand(),
	}
}
