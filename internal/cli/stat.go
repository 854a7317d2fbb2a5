package cli

import (
	"io/fs"
	"syscall"
)

// fileID is what two names of one file have in common.
type fileID struct{ dev, ino uint64 }

// statOf gives a file's identity and the 512-byte blocks that it takes.
func statOf(fi fs.FileInfo) (fileID, int64) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}, (fi.Size() + 511) / 512
	}
	return fileID{uint64(st.Dev), st.Ino}, st.Blocks
}
