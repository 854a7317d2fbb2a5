# Everything here is a short way to say something to go. Nothing but go, git,
# make, bash and coreutils is assumed; what tests need besides is installed or
# named by tools/prepare-tests.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS   += --no-builtin-rules

GO       ?= go
PREFIX   ?= /usr/local
FUZZTIME ?= 20s
TESTFLAGS ?=
BENCHFLAGS ?=

# A checkout that git does not trust (another owner, as in containers) cannot
# be asked for its revision; the program is then built without one.
BUILDVCS := $(shell git rev-parse HEAD >/dev/null 2>&1 || echo -buildvcs=false)

.PHONY: help
help: ## list the targets
	@echo "usage: make TARGET"; echo
	@while IFS= read -r line; do \
	  if [[ $$line =~ ^([a-z-]+):[^#]*\#\#\ (.*)$$ ]]; then printf '  %-9s %s\n' "$${BASH_REMATCH[1]}" "$${BASH_REMATCH[2]}"; fi; \
	done < Makefile

.PHONY: build
build: ## build bin/twinhull
	CGO_ENABLED=0 $(GO) build -trimpath $(BUILDVCS) -o bin/twinhull ./cmd/twinhull

.PHONY: install
install: build ## install the program and its manual below PREFIX (/usr/local)
	install -D -m 755 bin/twinhull $(DESTDIR)$(PREFIX)/bin/twinhull
	bin/twinhull man $(DESTDIR)$(PREFIX)/share/man/man1

.PHONY: demo
demo: build ## build both images of examples/node-api, run one, release it, and try to get the other in
	@bin/twinhull demo

.PHONY: test
test: ## run every test; as root, install what the tests need first
	@tools/prepare-tests
	@$(MAKE) --no-print-directory lint
	@tools/run-tests $(TESTFLAGS)

.PHONY: lint
lint: ## check format and suspicious code
	@unformatted=$$(gofmt -l $$(git ls-files '*.go' 2>/dev/null || find . -name '*.go')); \
	if [[ -n $$unformatted ]]; then echo "not formatted (gofmt -w):"; echo "$$unformatted"; exit 1; fi
	CGO_ENABLED=0 $(GO) vet ./...
	@for mod in test/*/go.mod; do if [[ -e $$mod ]]; then CGO_ENABLED=0 $(GO) -C "$$(dirname $$mod)" vet ./...; fi; done

.PHONY: bench
bench: build ## measure, against other builders too; writes bin/bench.json
	$(GO) -C test/bench run . -root $(CURDIR) -tool $(CURDIR)/bin/twinhull -out $(CURDIR)/bin/bench.json $(BENCHFLAGS)

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (20s)
	@grep -rl --include='*_test.go' '^func Fuzz' . | while read -r file; do \
	  while IFS= read -r line; do \
	    if [[ $$line =~ ^func\ (Fuzz[A-Za-z0-9_]*)\( ]]; then \
	      echo "$$(dirname "$$file") $${BASH_REMATCH[1]}"; \
	    fi; \
	  done < "$$file"; \
	done | sort | while read -r dir name; do \
	  echo "== $$dir $$name"; \
	  $(GO) test "$$dir" -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x </dev/null; \
	done

.PHONY: golden
golden: ## write anew what tests compare with (read the changes before a commit)
	$(GO) test ./internal/image -run '^TestGolden$$' -count=1 -update
	$(GO) test ./internal/project -count=1 -update
	UPDATE_SCRIPTS=1 $(GO) test ./cmd/twinhull -run '^TestScripts$$' -count=1
	git status --short

.PHONY: clean
clean: ## remove what was built here (the cache folder stays)
	rm -rf bin examples/*/.twinhull
