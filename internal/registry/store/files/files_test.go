package files

import (
	"testing"

	"twinhull.dev/twinhull/internal/registry/store/storetest"
)

func openFiles(t testing.TB, dir string) *Files {
	t.Helper()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestFiles(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Place {
		dir := t.TempDir()
		return storetest.Place{Open: func(t *testing.T) storetest.Opened {
			s := openFiles(t, dir)
			return storetest.Opened{Store: s.Store(), Close: s.Close}
		}}
	})
}
