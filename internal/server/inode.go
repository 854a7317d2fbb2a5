package server

import (
	"io/fs"
	"syscall"
)

// inode tells a file from another that was put in its place with the same size
// in the same moment.
func inode(fi fs.FileInfo) uint64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}
