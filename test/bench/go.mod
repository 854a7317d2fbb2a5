module twinhull.dev/twinhull/test/bench

go 1.26.0
