module example.org/go-service

go 1.26.0

toolchain go1.26.8

require (
	github.com/go-chi/chi/v5 v5.3.0
	golang.org/x/time v0.14.0
)
