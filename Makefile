# make demo | test | lab | matrix | check | docs | bench | install | deb | reproducible | distro: each sets up
# what it needs on a fresh Debian or Ubuntu with nothing but git and make, as root or through sudo.

PYTHON ?= /usr/bin/python3
VENV := .venv
RUN := $(VENV)/bin/python
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E)

# The Debian package of PYTHON; of one from elsewhere nothing is known.
INTERPRETER := $(or $(notdir $(filter /usr/bin/python3%,$(PYTHON))),python3)
BUILD_NEEDS := $(INTERPRETER) $(INTERPRETER)-venv $(INTERPRETER)-dev gcc libc6-dev libcap-dev \
	libseccomp2
# Programs nobody here wrote, that the tests run on brokered ports.
TEST_NEEDS := lrzsz picocom minicom tio screen cu microcom socat putty-tools ckermit ser2net \
	gpsd busybox-static python3-serial python3-seccomp tmux strace mandoc man-db bash-completion \
	zsh fish systemd bubblewrap
# More of them, and those of PyPI and npm: for `make matrix` alone.
MATRIX_NEEDS := avrdude stm32flash flashrom mbpoll libhamlib-utils gammu tcl expect \
	libdevice-serialport-perl ruby php-cli erlang-base ppp iproute2 nut-server \
	golang-go golang-github-tarm-serial-dev rustc default-jdk-headless libjssc-java \
	putty xvfb xdotool
SERIALPORTS := 12.0.0 13.0.0
DEB_NEEDS := build-essential debhelper dh-python python3 lintian
SOURCES := .ci LICENSE Makefile README.md broker docs frontend packaging pyproject.toml tests

# What the bench compares with.
PEERS_NEEDS := dbus-daemon libsystemd-dev pkg-config sudo login

# What builds and runs the guest of the lab.
LAB_MACHINE ?= x86_64
LAB_NEEDS := mmdebstrap cpio kmod e2fsprogs xz-utils zstd $(if $(filter aarch64,$(LAB_MACHINE)), \
	qemu-system-arm qemu-user-static binfmt-support arch-test,qemu-system-x86)

# What builds a root of another release.
DISTRO_NEEDS := mmdebstrap git python3
STEPS ?= demo check deb pip test matrix

.PHONY: demo test lab lab-clean matrix attack check docs bench install uninstall deb reproducible distro \
	distro-clean clean
.DELETE_ON_ERROR:

demo: $(VENV)/ready
	@$(AS_ROOT) $(RUN) -m ttybrokerd.demo

test: $(VENV)/ready $(VENV)/test-needs
	$(RUN) -m pytest -q tests/unit/test_wire.py tests/unit/test_table.py --cov=ttybroker.wire \
		--cov=ttybroker.asking --cov=ttybrokerd.root.ask --cov=ttybrokerd.root.effects \
		--cov=ttybrokerd.root.row --cov=ttybrokerd.root.table --cov-branch --cov-fail-under=100
	$(RUN) -m pytest -m "not alone" -n 3 --dist loadfile
	$(RUN) -m pytest -m alone

# In a guest with real drivers; tests/lab/__main__.py says how to run a part of it.
lab: $(VENV)/ready $(VENV)/lab-needs-$(LAB_MACHINE)
	@$(AS_ROOT) env PYTHONPATH=tests LAB_MACHINE=$(LAB_MACHINE) $(RUN) -m lab $(LAB_TESTS)

lab-clean:
	$(AS_ROOT) rm -rf .lab

# Writes docs/programs.md from a run; `make test` fails when they disagree.
matrix: $(VENV)/ready $(VENV)/test-needs $(VENV)/matrix/ready
	$(AS_ROOT) $(RUN) -m pytest -q tests/matrix/test_matrix.py tests/matrix/test_locks.py \
		--write-matrix
	$(AS_ROOT) $(RUN) -m pytest -q tests/matrix/test_lend.py --write-matrix
	$(AS_ROOT) $(RUN) -m pytest -q tests/matrix/test_labgrid.py tests/matrix/test_labgrid_driver.py \
		tests/matrix/test_asyncio.py

# All attacks at full scale (two hours; FUZZ_SECONDS=60 shortens the longest), or with ONLY=test_x.py
# that file's. MUTATE=1 instead takes the guards away one at a time: then their tests must fail. With
# WRITE=1 what was done goes into docs/attacks.md.
attack: $(VENV)/ready $(VENV)/test-needs $(VENV)/attack-needs
ifdef MUTATE
	$(AS_ROOT) env PYTHONPATH=tests $(RUN) -m attack.mutate $(if $(WRITE),--write) $(ONLY)
else
	$(AS_ROOT) $(RUN) -m pytest $(if $(ONLY),$(ONLY:%=tests/attack/%),tests/attack) --full \
		$(if $(WRITE),--write-attacks)
endif

# What a pre-commit hook would do, in a few seconds.
check: $(VENV)/ready
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy

# build/docs/index.html: the API, from the docstrings.
docs: $(VENV)/ready $(VENV)/docs-needs
	@$(RUN) docs/api.py

# OLD=COMMIT builds that one as well and runs both in turn; JSON=1 prints JSON; TOPICS="opens rules"
# runs a part. TOPICS=peers compares with what people would use instead. WRITE=1 puts the table into
# docs/. Exit status 1 (of make: 2) when a limit is missed.
bench: $(VENV)/ready $(VENV)/test-needs $(if $(filter peers,$(TOPICS)),$(VENV)/peers-needs)
	@$(AS_ROOT) env PYTHONPATH=tests PYTHON=$(PYTHON) $(RUN) -m bench $(if $(OLD),--old $(OLD)) \
		$(if $(JSON),--json) $(if $(WRITE),--write) $(TOPICS)

install uninstall: $(VENV)/ready
	$(MAKE) -C packaging/launcher $@ VENV=$(CURDIR)/$(VENV)

# dist/*.deb, and what dpkg-buildpackage says in build/deb/log. FOR=arm64: those for another machine,
# in dist/arm64, by a cross compiler.
deb: BUILT := build/deb$(FOR:%=-%)
deb: DIST := dist$(FOR:%=/%)
deb:
	@echo "[1/3] Debian packages: $(DEB_NEEDS) $(FOR:%=crossbuild-essential-%)"
	@packaging/apt-needs $(DEB_NEEDS) $(FOR:%=crossbuild-essential-%)
	@echo "[2/3] dpkg-buildpackage; what it says is in $(BUILT)/log"
	@rm -rf $(BUILT)
	@mkdir -p $(BUILT)/ttybroker $(DIST)
	@tar -c --exclude=__pycache__ --exclude=build $(SOURCES) | tar -x -m -C $(BUILT)/ttybroker
	@mv $(BUILT)/ttybroker/packaging/debian $(BUILT)/ttybroker
	@cd $(BUILT)/ttybroker && dpkg-buildpackage -us -uc $(FOR:%=-a%) >../log 2>&1 || \
	    { tail ../log; exit 1; }
	@echo "[3/3] lintian"
	@lintian --allow-root --fail-on error,warning $(BUILT)/*.changes
	@rm -f $(DIST)/*.deb
	@mv $(BUILT)/*ttybroker_*.deb $(DIST)
	@ls $(DIST)/*.deb

# Two builds of what a release publishes, which must be the same; the first is left in dist.
reproducible: $(VENV)/ready
	@packaging/apt-needs faketime
	@packaging/reproducible $(CURDIR)/$(RUN)

# D=trixie: the same on another release of Debian; tests/distro/__main__.py says what there is.
distro:
	@packaging/apt-needs $(DISTRO_NEEDS)
	@$(AS_ROOT) env PYTHONPATH=tests python3 -m distro "$(D)" $(PYTHON) $(STEPS)

distro-clean:
	$(AS_ROOT) rm -rf .distro

$(VENV)/ready: pyproject.toml
	@echo "[1/3] Debian packages: $(BUILD_NEEDS)"
	@packaging/apt-needs $(BUILD_NEEDS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	"$(PYTHON) is too old: make PYTHON=/usr/bin/python3.N takes another one, of 3.11 or later")'
	@echo "[2/3] virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "[3/3] Python packages into it (a minute, the first time)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check --use-pep517 -e '.[broker,dev]'
	@$(RUN) -m compileall -q broker frontend
	@touch $@

$(VENV)/test-needs: Makefile | $(VENV)/ready
	@echo "Debian packages for the tests: $(TEST_NEEDS)"
	@packaging/apt-needs $(TEST_NEEDS)
	@touch $@

# pip's own versions are in the files; of npm's packages those that the named one asks for.
$(VENV)/matrix/ready: Makefile tests/matrix/python.txt tests/matrix/labgrid.txt \
		$(wildcard tests/matrix/compiled/*) | $(VENV)/ready
	@echo "Debian packages for the matrix: $(MATRIX_NEEDS)"
	@packaging/apt-needs $(MATRIX_NEEDS)
	@command -v npm >/dev/null || packaging/apt-needs nodejs npm
	@for list in python labgrid; do \
	    rm -rf $(VENV)/matrix/$$list && $(RUN) -m pip install --quiet --disable-pip-version-check \
	        --no-deps --target $(VENV)/matrix/$$list -r tests/matrix/$$list.txt || exit 1; \
	done
	@for version in $(SERIALPORTS); do \
	    npm install --silent --no-audit --no-fund --prefix $(VENV)/matrix/node$${version%%.*} \
	        serialport@$$version || exit 1; \
	done
	@$(MAKE) -s -C tests/matrix/compiled BUILD=$(CURDIR)/$(VENV)/matrix/compiled
	@chmod -R go+rX $(VENV)/matrix
	@touch $@

$(VENV)/attack-needs: pyproject.toml | $(VENV)/ready
	@$(RUN) -m pip install --quiet --disable-pip-version-check --use-pep517 -e '.[broker,dev,attack]'
	@touch $@

$(VENV)/docs-needs: pyproject.toml | $(VENV)/ready
	@$(RUN) -m pip install --quiet --disable-pip-version-check --use-pep517 -e '.[broker,dev,docs]'
	@touch $@

$(VENV)/peers-needs: Makefile | $(VENV)/ready
	@packaging/apt-needs $(PEERS_NEEDS)
	@$(RUN) -m pip install --quiet --disable-pip-version-check dbus-fast==5.2.0
	@touch $@

$(VENV)/lab-needs-$(LAB_MACHINE): Makefile | $(VENV)/ready
	@echo "Debian packages for the lab: $(LAB_NEEDS)"
	@packaging/apt-needs $(LAB_NEEDS)
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
