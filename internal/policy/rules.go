package policy

import (
	"fmt"
	"slices"

	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/oci"
)

// RulesVersion is the version of the table: it changes when a rule comes, goes
// or decides otherwise, and with it the digest of every policy.
const RulesVersion = 2

// Effect is what a rule does in a zone.
type Effect string

// The effects. A rule with none is not applied.
const (
	Off     Effect = ""
	Notes   Effect = "notes"   // what it finds is told and does not refuse
	Refuses Effect = "refuses" // what it finds refuses, and so does not being able to tell
)

// Rules that are not about one kind of finding.
const (
	RuleZone            = "zone"
	RuleMinimalBase     = "minimal-base"
	RuleSignature       = "signature"
	RuleProvenance      = "provenance"
	RuleSBOM            = "sbom"
	RuleVulnerabilities = "vulnerabilities"
	RuleVEX             = "vex"
	RuleTests           = "tests"
	RuleTestCoverage    = "test-coverage"
	RuleExplained       = "unexplained-file"
	RuleAbsence         = "absence"
)

// Rule is an entry of the table: what is decided, and what people read about
// it.
type Rule struct {
	ID          string   `json:"id"` // stable: policies, waivers and signed summaries name it
	Group       string   `json:"group"`
	Title       string   `json:"title"` // what holds of an image that passes
	Proves      string   `json:"proves"`
	Why         string   `json:"why"`
	Fix         string   `json:"fix"`
	Waive       string   `json:"waive"`
	Severity    Severity `json:"severity"`
	Production  Effect   `json:"production,omitempty"`
	Development Effect   `json:"development,omitempty"`
	Waivable    bool     `json:"waivable"`
	Findings    []string `json:"findings,omitempty"` // ids of inspection that it owns

	check func(*judge)
}

// Effect is what the rule does in a zone.
func (r Rule) Effect(z oci.Zone) Effect {
	switch z {
	case oci.Production:
		return r.Production
	case oci.Development:
		return r.Development
	}
	return Off
}

// Groups of rules, in the order in which they are told.
const (
	groupZone     = "zone"
	groupClaims   = "claims"
	groupContents = "contents"
	groupLeft     = "leftovers"
	groupRun      = "running"
	groupReady    = "readiness"
	groupBytes    = "bytes"
)

// Rules returns the table.
func Rules() []Rule {
	all := slices.Clone(table)
	for i := range all {
		r := &all[i]
		if r.Waive != "" {
			continue
		}
		if !r.Waivable {
			r.Waive = "It cannot be waived."
			continue
		}
		subject := "the path or the name that the reason gives"
		if len(r.Findings) == 0 {
			subject = "what the reason names"
		}
		r.Waive = fmt.Sprintf("A waiver in policy.yaml with rule: %s, subject: %s, and a reason, an owner and an expiry.", r.ID, subject)
	}
	return all
}

// FindRule returns the rule of an id.
func FindRule(id string) (Rule, bool) {
	for _, r := range Rules() {
		if r.ID == id {
			return r, true
		}
	}
	return Rule{}, false
}

// found is a rule that refuses what inspection finds under its own name.
func found(group, id, title string, s Severity, proves, why, fix string) Rule {
	return Rule{ID: id, Group: group, Title: title, Proves: proves, Why: why, Fix: fix, Severity: s,
		Production: Refuses, Waivable: true, Findings: []string{id}, check: (*judge).findings}
}

func (r Rule) never(why string) Rule {
	r.Waivable, r.Waive = false, "It cannot be waived: "+why
	return r
}

func (r Rule) in(development Effect) Rule { r.Development = development; return r }

func (r Rule) with(check func(*judge)) Rule { r.check = check; return r }

func (r Rule) notes() Rule { r.Production = Notes; return r }

// asks is a rule about claims or about several facts.
func asks(group, id, title string, s Severity, check func(*judge), proves, why, fix string) Rule {
	return Rule{ID: id, Group: group, Title: title, Proves: proves, Why: why, Fix: fix, Severity: s, Production: Refuses, Waivable: true, check: check}
}

const (
	byContent = "Every file of every layer was read, also those that higher layers delete and those in archives, and none of them is one, by its contents or its name."
	onlyRuns  = "build the production image from declared artifacts and runtime packages only, so that it never was in there; deleting it in a later layer leaves it in the earlier one"
)

var table = []Rule{
	asks(groupZone, RuleZone, "The image is of the zone that it is judged for", Critical, (*judge).zone,
		"All four places say so: the configuration's label, the manifest's annotation, the repository path and the signed claims. For development the label and the annotation must; the other two must not say otherwise.",
		"An image carries its zone for life. A development image that is deployed by accident brings its tools and its settings with it.",
		"build the image of that zone: `twinhull build production`; for an image of another builder set the label and the annotation dev.twinhull.zone").
		in(Refuses).never("an image of one zone is never one of the other."),

	// Claims.
	asks(groupClaims, RuleSignature, "Signed by somebody who is trusted", Critical, (*judge).signature,
		"The trust policy names an identity that may sign for this repository, and it signed this digest.",
		"Only those who may release should be able to.",
		"sign it: `twinhull sign IMAGE --key FILE`; and say whom to believe with --trust FILE or --key FILE").
		never("what nobody vouches for, nobody can excuse."),
	asks(groupClaims, RuleProvenance, "Built from named inputs, by a known builder", High, (*judge).provenance,
		"A believed SLSA provenance of this digest names every input by hash, and the build has the properties that the policy requires.",
		"Without it nobody can say what went in, or build it again.",
		"attest where it was built: `twinhull attest IMAGE --key FILE --type provenance`"),
	asks(groupClaims, RuleSBOM, "Its bill of materials is complete", High, (*judge).sbom,
		"A believed SPDX or CycloneDX document lists every package that its bytes show, and no system package that they do not.",
		"A new vulnerability is looked up in bills of materials: what is missing there is never found.",
		"attest where it was built: `twinhull attest IMAGE --key FILE --type sbom`; or attest another tool's document with --predicate"),
	asks(groupClaims, RuleExplained, "Every file is explained", High, (*judge).explained,
		"A believed origins document traces each path of the image, with its contents, to a locked package, a declared artifact of a recorded step, a file that the project file names, or a generator.",
		"What nobody can explain may have been put there by anybody.",
		"build with `twinhull build` and attest: `twinhull attest IMAGE --key FILE --type origins`"),
	asks(groupClaims, RuleVulnerabilities, "No known vulnerability without an exception", High, (*judge).vulnerabilities,
		"A recent vulnerability database was asked about every package. What it, or a believed report, knows at the policy's severity or above is answered by a believed OpenVEX statement about this image and this package, or by a dated waiver.",
		"Known vulnerabilities are what attackers try first. A database that is missing or old knows nothing, which is no good news.",
		"update the package; or attest an OpenVEX statement with this image as product and the package as subcomponent: `twinhull attest IMAGE --key FILE --type vex --predicate FILE`"),
	asks(groupClaims, RuleVEX, "What is said about vulnerabilities is heard", Medium, (*judge).vex,
		"Every believed OpenVEX document was read, and none says that the image is affected or that somebody is still looking.",
		"A vulnerability below the threshold that its own vendor calls exploitable is a reason to wait.",
		"update the package, or attest a newer statement when the matter is settled"),
	asks(groupClaims, RuleTests, "Its tests passed", High, (*judge).tests,
		"Every believed test result of this digest has a test that passed, or code that its tests ran, and no test that failed.",
		"An image whose tests nobody ran is a guess.",
		"declare the test step's report in twinhull.yaml (junit:), build, and attest: `twinhull attest IMAGE --key FILE --type tests`"),
	asks(groupClaims, RuleTestCoverage, "Its tests cover enough", Medium, (*judge).testCoverage,
		"Every believed measurement of this digest reaches the policy's share of the code (default 80 %).",
		"Tests that run little of the code say little about it.",
		"test more of the code; and declare the test step's coverage in twinhull.yaml (coverage:) so that it is attested"),
	asks(groupClaims, RuleAbsence, "Signed inspections agree with the bytes", High, (*judge).absence,
		"Every believed inspection of this digest is about the same layers and found nothing that the bytes do not show.",
		"Two readers of one image who disagree mean that one of them is wrong.",
		"ask whoever signed it; inspect again with the same version"),

	// Contents.
	asks(groupContents, RuleMinimalBase, "The base is minimal", Medium, (*judge).minimalBase,
		"The image has no package of a whole system (its package manager, its login, its tools), not more system packages than the policy allows, and is not larger.",
		"Every package is one to patch, and one to attack.",
		"start from nothing or from a distroless base, and name the packages that the program needs"),
	found(groupContents, inspect.RuleShell, "No shell", Critical, byContent,
		"With a shell, a flaw in the program becomes commands in the container.", onlyRuns),
	found(groupContents, inspect.RulePackageManager, "No package manager", High, byContent,
		"It installs whatever an intruder lacks.", onlyRuns),
	found(groupContents, inspect.RuleCompiler, "No compiler", High, byContent,
		"With one, exploits are made on the spot.", onlyRuns),
	found(groupContents, inspect.RuleBuildTool, "No build tool", Medium, byContent,
		"Nothing is built in production; its presence says that the wrong stage was shipped.", onlyRuns),
	found(groupContents, inspect.RuleHeaders, "No headers, object files or static libraries", Low, byContent,
		"They are for building; their presence says that the wrong stage was shipped.", onlyRuns),
	found(groupContents, inspect.RuleDebugger, "No debugger, tracer or profiler", High, byContent,
		"It reads the memory of the program, and the secrets in it.", onlyRuns),
	found(groupContents, inspect.RuleNetworkClient, "No network client", Medium, byContent,
		"It fetches tools and carries data out.", onlyRuns),
	found(groupContents, inspect.RuleEditor, "No editor", Low, byContent,
		"Nothing is edited in production; many editors start shells.", onlyRuns),
	found(groupContents, inspect.RuleInterpreter, "No interpreter but the program's own", Medium,
		"The entry point runs on every interpreter that is in the image; there is no other.",
		"An interpreter is a shell by another name.", onlyRuns),
	found(groupContents, inspect.RulePacked, "No packed executable", High,
		"Every executable can be read.", "What is packed cannot be told from a shell.", "ship the program as its compiler wrote it"),
	found(groupContents, inspect.RuleSecret, "No secret", Critical,
		"No file, also none that a higher layer deletes, and no variable, label or history entry holds a key, token or password.",
		"Everybody who can pull the image has it, and for good.",
		"revoke it, give it at run time, and build without it; waive only a finding that is none").in(Notes),

	// Leftovers.
	found(groupLeft, inspect.RuleSourceMap, "No source map", Low, "There is none in the application, by its contents or its name; those of dependencies are only noted.", "It gives the source to whoever can read the image.", "leave it out of the artifact").with((*judge).application),
	found(groupLeft, inspect.RuleTestFiles, "No tests", Low, "There are none in the application; those that a dependency's own package brings are only noted.", "They are code that nobody maintains for production.", "leave them out of the artifact").with((*judge).application),
	found(groupLeft, inspect.RuleCoverage, "No coverage data", Low, "There is none.", "It belongs to testing; programs built for it run slower.", "leave it out of the artifact"),
	found(groupLeft, inspect.RuleVCS, "No version control data", High, "There is none, also by contents.", "It holds everything that ever was in the repository, secrets too.", "copy artifacts, not the working folder"),
	found(groupLeft, inspect.RuleEnvFile, "No .env file", High, "There is none.", "It is where passwords of development are kept.", "leave it out; give settings at run time"),
	found(groupLeft, inspect.RulePackageCache, "No package cache", Low, "There is none.", "It is weight, and packages that nobody checked.", "leave it out of the artifact"),
	found(groupLeft, inspect.RuleLockFile, "No lock file of a build tool", Low, "There is none.", "It belongs to building, and tells what the build used.", "leave it out of the artifact; the bill of materials says what is in the image"),
	found(groupLeft, inspect.RuleTypeScript, "No TypeScript source", Low, "There is none in the application; what a dependency's own package brings is only noted.", "It is for building, and gives the source away.", "ship what the compiler wrote").with((*judge).application),
	found(groupLeft, inspect.RuleBuildLog, "No build log", Low, "There is none.", "It tells paths and settings of the machine that built.", "leave it out of the artifact"),
	found(groupLeft, inspect.RuleBackup, "No editor's backup", Low, "There is none.", "It is an old version that nobody looks after.", "leave it out of the artifact"),
	found(groupLeft, inspect.RuleCoreDump, "No core dump", High, "There is none.", "It is a program's memory, with every secret in it.", "leave it out of the artifact"),

	// What running allows.
	found(groupRun, inspect.RuleRootUser, "Runs as an ordinary user", High, "The configuration names a user, and it is not root.",
		"Root in a container is one flaw away from root on the machine.", "set production.user, or USER, to a number above 0"),
	found(groupRun, inspect.RuleWritesOutside, "Works on a read-only root", Medium,
		"Nothing in the configuration (volumes, folders for logs, data and caches) is to be written outside the paths in the label dev.twinhull.writable.",
		"A root file system that cannot be written cannot be changed by an intruder.", "declare the path as writable, or write elsewhere"),
	found(groupRun, inspect.RuleUserWritable, "The program cannot change itself", Medium, "The run user neither owns nor may write anything outside the declared writable paths.",
		"What may change its own code keeps an intruder after a restart.", "have the files owned by root and not writable by others"),
	found(groupRun, inspect.RuleWorldWritable, "Nothing is writable by everybody", Medium, "No file or folder is, but sticky temporary folders.",
		"Whoever is in can change it.", "remove the write permission for others"),
	found(groupRun, inspect.RuleSetID, "No set-user-id program", High, "No file has the set-user-id or set-group-id bit.",
		"It is a way from an ordinary user to another.", "remove the bit, or leave the program out"),
	found(groupRun, inspect.RuleCapability, "No file capability", High, "No file has one.",
		"It gives a program part of root's power, and fails to start where the cluster forbids it.", "leave it out: listen on a port above 1023"),
	found(groupRun, inspect.RuleDevice, "No device node", High, "There is none.", "It leads to the machine's hardware.", "leave it out: runtimes make those that are needed"),
	found(groupRun, inspect.RuleDebugFlag, "Debugging is off", High, "Neither entry point, command nor environment turns a debugger, debug output or a development mode on.",
		"A debugger that listens is a shell with another protocol.", "take the flag out of production's configuration"),

	// Would it run?
	found(groupReady, inspect.RuleShellEntrypoint, "Starts without a shell", High, "Entry point, command and health check start the program itself.",
		"Without a shell in the image it would not start, and signals would not reach it.", "write the entry point as a list of arguments that begins with the program"),
	found(groupReady, inspect.RuleNoEntrypoint, "Has an entry point", High, "The configuration names one.", "It would not start.", "set production.entrypoint, or ENTRYPOINT"),
	found(groupReady, inspect.RuleBrokenEntrypoint, "Its entry point is there", High, "The program, its interpreter and the script that it is told to run are in the image and can be executed.",
		"It would not start.", "name a file that is in the image").in(Notes),
	found(groupReady, inspect.RuleUnresolvedProgram, "Every program finds its libraries", High, "The dynamic linker would find every library and every symbol version that the image's programs need.",
		"It would not start, or stop in the middle.", "add the package that has the library").in(Notes),
	found(groupReady, inspect.RuleUnresolvedLibrary, "Every library finds its libraries", Low, "As for programs, for libraries that a program may load.",
		"What loads it fails; often nothing does.", "add the package that has the library, or leave the plug-in out").notes(),
	found(groupReady, inspect.RuleUnresolvedScript, "Every script finds its interpreter", Low, "The interpreter of each executable script of the application is in the image.",
		"The script would not start. Scripts of dependencies are only noted: libraries bring tools that nobody runs.", "leave the script out, or take its execute permission").with((*judge).application),
	found(groupReady, inspect.RuleNoPasswd, "Its user is known", Medium, "/etc/passwd has the user when the configuration names it; a number without an entry is only noted.",
		"No runtime can start a user whose number it cannot find.", "name the user by number").with((*judge).passwd),
	found(groupReady, inspect.RulePrivilegedPort, "Listens where it may", Medium, "An ordinary user's ports are above 1023.", "It would not start where such ports are privileged.", "listen on a port above 1023; a service maps it"),
	found(groupReady, inspect.RuleNoCABundle, "Has certificates of authorities", Low, "A bundle of CA certificates is there.", "Outgoing TLS connections fail, unless the program brings its own.", "add the package ca-certificates").notes(),
	found(groupReady, inspect.RuleNoTimeZones, "Has time zones", Low, "Time zone data is there.", "Local times cannot be told, unless the program brings its own.", "add the package tzdata").notes(),

	// The bytes themselves.
	found(groupBytes, inspect.RuleUnreadable, "Every byte was read", Critical, "Every layer was read to its end and has its digests, and so was every archive in it.",
		"What cannot be read may hide anything.", "build it again, without encrypted, damaged or oversized parts").in(Refuses).with((*judge).unreadable).never("of what was not read nothing is known."),
	found(groupBytes, inspect.RuleHostile, "No entry that a builder would not make", Critical, "No layer has paths that climb out, links in a circle, or bytes behind its end.",
		"Such layers attack whoever unpacks them.", "build it again with another tool").in(Refuses).never("no honest tool makes such a layer."),
	found(groupBytes, inspect.RuleInconsistent, "Manifest, configuration and history agree", Critical, "Digests, layers, platform and zone are the same wherever they are told.",
		"Two tools would see two images.", "build it again; do not edit manifests").in(Refuses).never("which of the two images is meant nobody can say."),
	found(groupBytes, inspect.RulePackageBytes, "Packages are as they were shipped", High, "Every file that a package's checksums name has them.",
		"A changed file of a package is what an intruder leaves, and what no scanner looks at.", "leave packages' files alone; overlay settings elsewhere"),
}
