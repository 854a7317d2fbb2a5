package memory_test

import (
	"testing"

	"twinhull.dev/twinhull/internal/registry/store/memory"
	"twinhull.dev/twinhull/internal/registry/store/storetest"
)

func TestMemory(t *testing.T) {
	storetest.Run(t, func(*testing.T) storetest.Place {
		s := memory.New() // it is the place, too
		return storetest.Place{
			Replicas: true,
			Open: func(*testing.T) storetest.Opened {
				return storetest.Opened{Store: s, Close: s.Records.Close}
			},
		}
	})
}
