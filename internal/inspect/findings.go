package inspect

import "twinhull.dev/twinhull/internal/oci"

// Rule ids: what a Finding is about. They are stable, because policies,
// waivers and signed reports name them; what each proves and how to fix it is
// told by package policy.
const (
	// Tools, known by their contents or by their names.
	RuleShell          = "shell"
	RulePackageManager = "package-manager"
	RuleCompiler       = "compiler"   // compilers, assemblers, linkers, binutils
	RuleBuildTool      = "build-tool" // make, cmake, ninja and the like
	RuleHeaders        = "headers"    // C headers, object files, static libraries
	RuleDebugger       = "debugger"   // debuggers, tracers, profilers
	RuleNetworkClient  = "network-client"
	RuleEditor         = "editor"
	RuleInterpreter    = "interpreter" // one that the entry point does not run on
	RulePacked         = "packed"      // a packed executable, whose contents cannot be told

	// Permissions.
	RuleSetID         = "set-id"
	RuleCapability    = "capability"
	RuleWorldWritable = "world-writable"
	RuleDevice        = "device"
	RuleUserWritable  = "user-writable" // by the run user, outside dev.twinhull.writable

	// Leftovers of building.
	RuleSourceMap    = "source-map"
	RuleTestFiles    = "test-files"
	RuleCoverage     = "coverage"
	RuleVCS          = "vcs"
	RuleEnvFile      = "env-file"
	RulePackageCache = "package-cache"
	RuleLockFile     = "lock-file"
	RuleTypeScript   = "typescript"
	RuleBuildLog     = "build-log"
	RuleBackup       = "backup-file" // of editors; and their settings
	RuleCoreDump     = "core-dump"

	// Configuration.
	RuleDebugFlag = "debug-flag"
	RuleRootUser  = "root-user"

	// Secrets: in files, hidden files, environment, labels, history.
	RuleSecret = "secret"

	// Readiness: would it run, and run without what production lacks?
	RuleShellEntrypoint   = "shell-entrypoint"
	RuleNoEntrypoint      = "no-entrypoint"
	RuleBrokenEntrypoint  = "broken-entrypoint"  // the program is not there or cannot be started
	RuleUnresolvedProgram = "unresolved-program" // the dynamic linker would fail
	RuleUnresolvedLibrary = "unresolved-library" // of a library that may never be loaded
	RuleUnresolvedScript  = "unresolved-script"  // its interpreter is not there
	RuleNoCABundle        = "no-ca-bundle"
	RuleNoTimeZones       = "no-time-zones"
	RuleNoPasswd          = "no-passwd-entry"
	RulePrivilegedPort    = "privileged-port"
	RuleWritesOutside     = "writes-outside"

	// Trust in the bytes themselves.
	RulePackageBytes = "package-bytes" // a file is not what its package installed
	RuleUnreadable   = "unreadable"    // something could not be read, so nothing is known of it
	RuleHostile      = "hostile-layer" // paths or entries that no builder makes
	RuleInconsistent = "inconsistent"  // manifest, configuration and zone markers disagree
)

// Rules lists every rule id, in the order of the constants.
func Rules() []string {
	return []string{
		RuleShell, RulePackageManager, RuleCompiler, RuleBuildTool, RuleHeaders, RuleDebugger, RuleNetworkClient, RuleEditor, RuleInterpreter, RulePacked,
		RuleSetID, RuleCapability, RuleWorldWritable, RuleDevice, RuleUserWritable,
		RuleSourceMap, RuleTestFiles, RuleCoverage, RuleVCS, RuleEnvFile, RulePackageCache, RuleLockFile, RuleTypeScript, RuleBuildLog, RuleBackup, RuleCoreDump,
		RuleDebugFlag, RuleRootUser, RuleSecret,
		RuleShellEntrypoint, RuleNoEntrypoint, RuleBrokenEntrypoint, RuleUnresolvedProgram, RuleUnresolvedLibrary, RuleUnresolvedScript,
		RuleNoCABundle, RuleNoTimeZones, RuleNoPasswd, RulePrivilegedPort, RuleWritesOutside,
		RulePackageBytes, RuleUnreadable, RuleHostile, RuleInconsistent,
	}
}

// Finding is one thing that a policy may mind. Findings of one rule below one
// folder are drawn together (Count), so that a tree of a thousand headers is
// one finding.
type Finding struct {
	Rule    string     `json:"rule"`              // one of the Rule constants
	Subject string     `json:"subject,omitempty"` // what was found: "bash", "github-pat", "NODE_OPTIONS"
	Path    string     `json:"path,omitempty"`    // absolute; "" when it is in the configuration
	Inside  string     `json:"inside,omitempty"`  // path inside the archive at Path
	Aliases []string   `json:"aliases,omitempty"` // links that lead to Path, a few of them
	Layer   oci.Digest `json:"layer,omitempty"`   // the blob that holds it
	// Hidden: the file was deleted or replaced by a higher layer. A process in
	// the container cannot see it, everybody who pulls the image can.
	Hidden bool `json:"hidden,omitempty"`
	// Dependency: the file belongs to an installed dependency (node_modules,
	// site-packages, a distribution's package), not to the application.
	Dependency bool   `json:"dependency,omitempty"`
	Count      int    `json:"count,omitempty"`    // how many files, when Path is a folder or the first of several
	Detail     string `json:"detail,omitempty"`   // a sentence for a person
	Evidence   string `json:"evidence,omitempty"` // what it was known by; never a secret itself
}
