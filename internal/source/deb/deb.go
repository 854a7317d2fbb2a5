// Package deb reads Debian archives natively: it verifies a release's
// signature, reads package indexes, compares versions, resolves a package set
// deterministically and checks the result by an independent route.
//
// The flow is ParseInRelease → ScanPackages → NewUniverse → Resolve → Check;
// Fetch and Restore run the first half over a network or over the vault alone.
// Every byte that leaves the package was named by hash in a release whose
// signature was verified: nothing else of an archive is believed.
//
// The package does not unpack .deb files (package debfile), does not download
// (its Downloader is given by the caller; package fetch is the real one), knows
// no mirror (package site) and runs no program of Debian's.
//
// # How a set is chosen
//
// Resolve chooses as `apt-get install --no-install-recommends` does on a system
// with nothing installed and one architecture, so that a closure holds what a
// Debian user expects:
//
//   - A package name has one candidate, its highest version over all suites
//     (the first suite wins between equal versions), or the version that the
//     request pins with name=version.
//   - All demanded packages count as selected before any dependency is looked
//     at. Then the dependencies of each are followed depth first, Pre-Depends
//     before Depends, in the order in which they are written.
//   - A dependency that a selected package meets adds nothing. Otherwise its
//     alternatives are tried in order; within one alternative the package of
//     that name comes first, then its providers: Essential, then Protected,
//     then by Priority (required first), then the one that apt met last when it
//     read the indexes (see Universe.rank).
//   - A choice that leads to a conflict is taken back and the next one is tried
//     until the demands are met or proved contradictory. apt gives up earlier;
//     that is the only wanted difference.
//   - A version below the candidate is chosen only where a demand or a
//     dependency admits no candidate (a pinned package that needs exactly the
//     library of its own build).
//
// # Specifications
//
// Debian Policy 4.7: 5.6.1 (names), 5.6.12 (versions), 7.1 (relations), 7.5
// (virtual packages). Multi-Arch as in dpkg, within a single architecture.
// Repository format as in Debian's wiki page RepositoryFormat; signatures by
// RFC 4880 section 7 (clear-signed text).
package deb
