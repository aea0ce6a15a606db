# The two front doors. Both install what is missing with apt, build, and say what they do.
.DEFAULT_GOAL := help
.PHONY: help demo test build bench asan asan-engine tsan arm64 cuda fuzz clean

help:  ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: build  ## Draw three pictures and ask the demo model about them
	@scripts/demo.sh

test:  ## Build and run every test
	@scripts/install-deps.sh
	@scripts/build.sh release all
	@ctest --test-dir build --output-on-failure -j $$(nproc)

build:  ## Build the cogserve command: build/command/cogserve
	@scripts/install-deps.sh
	@scripts/build.sh release cogserve

bench:  ## Run the benchmarks in tests/bench
	@scripts/install-deps.sh
	@scripts/build.sh bench all
	@scripts/bench.sh

asan:  ## Run the tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@scripts/install-deps.sh
	@scripts/build.sh asan all
	@scripts/sanitize.sh asan

asan-engine:  ## The same for the engine's tests alone
	@scripts/install-deps.sh
	@scripts/build.sh asan-engine all
	@scripts/sanitize.sh asan-engine

tsan:  ## Run the engine's tests under ThreadSanitizer
	@scripts/install-deps.sh
	@scripts/build.sh tsan all
	@scripts/sanitize.sh tsan

arm64:  ## Run the engine's tests as 64-bit ARM code, under QEMU (Debian)
	@scripts/test-arm64.sh

cuda:  ## Compile all that runs on a GPU (see tests/gpu); needs nvcc, but no GPU
	@scripts/install-deps.sh
	@scripts/build.sh cuda gpu

fuzz:  ## Run every fuzz target for ten seconds
	@scripts/install-deps.sh clang libclang-rt-dev
	@scripts/build.sh fuzz fuzzers
	@ctest --test-dir build-fuzz -R _fuzz --output-on-failure -j $$(nproc)

clean:  ## Remove what was built
	@rm -rf build build-asan build-asan-engine build-tsan build-arm64 build-cuda build-fuzz
