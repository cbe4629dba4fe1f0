# Everything is a script or a single command, so that it can be run without make as well.
.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  \033[1m%-9s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: up
up: ## Start Kubernetes, PostgreSQL and the operator here (CLUSTER=current: in the cluster of your kubeconfig)
	@hack/stack.sh up

.PHONY: down
down: ## End what `make up` started and discard it; .local/logs stays
	@hack/stack.sh down

.PHONY: demo
demo: ## Show an improvement from end to end, and back
	@hack/demo.sh

.PHONY: run
run: ## Run the operator here against the local stack, instead of the one in the cluster
	@hack/stack.sh run

.PHONY: test
test: ## Run every test: unit, PostgreSQL, API server, end to end
	@hack/test.sh

.PHONY: verify
verify: ## Check formatting, generated files, lint, manifests and documents
	@hack/verify.sh

.PHONY: bench
bench: ## Measure against bare clients and print the ratios; BENCH_FLAGS has further flags, such as -strict
	@hack/deps.sh
	@KUBEBUILDER_ASSETS=$$(hack/onenode/build.sh) go run ./test/bench $(BENCH_FLAGS)

.PHONY: generate
generate: ## Write deep copies, CRDs, RBAC and typed queries anew
	@hack/generate.sh

.PHONY: build
build: ## Build the operator into bin/
	go build -o bin/ ./cmd/...

.PHONY: image
image: ## Build the operator's image into dist/ (IMG=name:tag)
	@hack/image.sh ./cmd/manager $(or $(IMG),dgm-operator:dev) dist
