# Parallax: a shared virtual block store for virtual machines.
#
#   make              build/parallax, build/parallaxd (usable from there, by any user)
#   make deps         installs what building and testing need (Debian packages; as root), else prints the line to run
#   make demo         the main job on real input: template, 1,000 clones, guests on rings, snapshots, rollback
#   make check        all tests that fit a quarter of an hour; ends with "N passed, N failed, N skipped"
#   make check-asan   unit and model tests under AddressSanitizer and UBSan
#   make check-tsan   the threaded tests under ThreadSanitizer
#   make check-deb    the Debian package on a bare Debian: it is installed, serves, is read by who reads it, and purged; a few minutes
#   make check-roots  two root images of Debian that differ by an upgrade: what the second one costs; a few minutes
#   make check-crash  power cuts, faults and rot under the real store, in full length (docs/testing.md)
#   make check-layers includes run one way only
#   make check-full   a store filled and freed 1,000 times, killed in between (CYCLES=N), by its own limit and by its file system
#   make check-qemu   real guests over NBD: QEMU (emulation) with Debian's kernel; a loop device short of memory in one; a quarter of an hour
#   make check-mutants deliberate bugs: each must make the test that it names fail (MUTANT="NAMES": only these)
#   make check-kill  1,000 kills of parallaxd under verifying guests, inside each phase of its work
#   make check-xen    the real Xen in QEMU: a storage domain, stock guests (three boots; check-xen-short: one, a few minutes)
#   make bench        ratios against the raw device and qcow2 (FORM=quick|full, WORKLOAD="NAMES": only these; docs/performance.md)
#   make bench-document   puts what make bench measured into docs/performance.md
#   make install      under DESTDIR, PREFIX=/usr
#   make deb          a Debian package: build/parallax_VERSION_ARCH.deb
#   make clean
#
#   Variables: D=asan|tsan (a build with that sanitizer, in build-asan/ …), O=DIR (where to build), V=1 (show commands),
#   TEST="GLOB…" (only the test programs whose name matches), JOBS=N (so many test programs at a time), CFLAGS_EXTRA, LDFLAGS_EXTRA. XEN= (leave Xen out; without libxen-dev's grant library it is).
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := all
SHELL := /bin/bash

D ?=
O ?= build$(if $(D),-$(D))
PREFIX ?= /usr
UNIT_DIR ?= $(PREFIX)/lib/systemd/system
PLUGIN_DIR ?= $(shell pkg-config --variable=plugindir nbdkit 2>/dev/null || echo $(PREFIX)/lib/nbdkit/plugins)
V ?=
Q := $(if $(V),,@)
say = $(if $(V),@:,@printf '  %-5s %s\n' $(1) $(2))

CC := gcc
SAN_asan := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
SAN_tsan := -fsanitize=thread -fno-omit-frame-pointer
OPT_ := -O2
OPT_asan := -O1
OPT_tsan := -O1
CFLAGS := -std=gnu11 -g $(OPT_$(D)) -Wall -Wextra -Wshadow -Wvla -Wstrict-prototypes -Wmissing-prototypes -Wundef \
          -Wpointer-arith -Werror -fno-strict-aliasing -fstack-protector-strong -fPIC -fvisibility=hidden $(SAN_$(D)) $(CFLAGS_EXTRA)
CPPFLAGS := -I. -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64
LDFLAGS := $(SAN_$(D)) -Wl,--as-needed $(LDFLAGS_EXTRA)
LDLIBS := -lfuse3 -laio -ldb-5.3 -lcrypto -ljansson -lnbd -lxenstore -lpthread

# The real Xen, where its headers are.
XEN ?= $(if $(wildcard /usr/include/xengnttab.h),1)
ifeq ($(XEN),)
$(info Xen is left out: there is no xengnttab.h (Debian package libxen-dev))
$(O)/obj/hypervisor/hypervisor.o: CPPFLAGS += -DPARALLAX_WITHOUT_XEN
else
LDLIBS += -lxengnttab -lxenevtchn
endif

PACKAGES := gcc make libc6-dev libaio-dev libdb5.3-dev libssl-dev libcunit1-dev libjansson-dev libxen-dev libfuse3-dev libmicrohttpd-dev curl \
            xenstore-utils e2fsprogs xfsprogs jq fio fuse3 nbdkit nbdkit-plugin-dev libnbd-dev libnbd-bin python3 python3-libnbd qemu-utils openssl util-linux mount procps patch man-db
# What the rig for the real Xen needs besides; what runs inside it is downloaded, not installed.
XEN_PACKAGES := qemu-system-x86 cpio xz-utils binutils mmdebstrap

QEMU_PACKAGES := qemu-system-x86 busybox-static cpio kmod mmdebstrap dpkg-dev

# Each folder is a static library; what it may stand on (tests/check-layers holds the includes to the same table).
FOLDERS := base radix cache hypervisor vbd parallax blkfront blkback control doors/common doors/fuse tools/common
DEPS_base := base
DEPS_radix := radix base
DEPS_cache := cache base
DEPS_hypervisor := hypervisor base
DEPS_parallax := parallax radix cache base
DEPS_blkfront := blkfront hypervisor base
DEPS_blkback := blkback blkfront hypervisor parallax radix cache base
DEPS_vbd := vbd hypervisor base
DEPS_control := control base
DEPS_doors := doors/common control vbd blkfront hypervisor base
DEPS_tools := tools/common doors/fuse doors/common vbd control blkback blkfront hypervisor parallax radix cache base
DEPS_support := tests/support
DEPS_disk := tests/disk parallax-disk radix-disk cache-disk base-disk

sources = $(filter-out $(if $(XEN),,hypervisor/xen/%),$(sort $(shell find $(1) -name '*.c' 2>/dev/null)))
library = $(O)/lib/$(subst /,-,$(1)).a
libraries = $(foreach f,$(1),$(call library,$(f)))

PROGRAMS := $(patsubst tools/%/main.c,%,$(wildcard tools/*/main.c))
UNIT_TESTS := $(patsubst tests/%.c,$(O)/tests/%,$(wildcard tests/unit/*_test.c tests/model/*_test.c tests/crash/*_test.c))
HELPERS := $(patsubst tests/%.c,$(O)/tests/%,$(wildcard tests/programs/*.c))
PRELOADS := $(patsubst tests/%.c,$(O)/tests/%.so,$(wildcard tests/preload/*.c))

# nbdkit's plugin, where its header is. A sanitizer would have to be in nbdkit itself.
PLUGIN := $(if $(D),,$(if $(wildcard /usr/include/nbdkit-plugin.h),$(O)/nbdkit-parallax-plugin.so))

.PHONY: all
all: $(addprefix $(O)/,$(PROGRAMS)) $(PLUGIN)

define library_rules
$(call library,$(1)): $(patsubst %.c,$(O)/obj/%.o,$(call sources,$(1)))
	$$(call say,AR,$$@)
	@mkdir -p $$(@D) && rm -f $$@
	$(Q)ar rcs $$@ $$^
endef
$(foreach f,$(FOLDERS) tests/support tests/disk,$(eval $(call library_rules,$(f))))

# As above, with allocations that the test disk can make fail.
$(O)/lib/%-disk.a: $(O)/lib/%.a
	$(call say,COPY,$@)
	$(Q)objcopy $(foreach f,malloc calloc realloc strdup posix_memalign aligned_alloc,--redefine-sym $(f)=disk_$(f)) $< $@

$(O)/obj/%.o: %.c
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

define link
	$(call say,LINK,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LDLIBS) $(1)
endef

define program_rules
$(O)/$(1): $(patsubst %.c,$(O)/obj/%.o,$(call sources,tools/$(1))) $(call libraries,$(DEPS_tools))
	$$(call link)
endef
$(foreach p,$(PROGRAMS),$(eval $(call program_rules,$(p))))

$(O)/parallaxd: LDLIBS += -lmicrohttpd

# It stays loaded to the end: a variable of the environment may lie in it (hypervisor/local).
, := ,
$(O)/nbdkit-parallax-plugin.so: $(patsubst %.c,$(O)/obj/%.o,$(call sources,doors/nbd)) $(call libraries,$(DEPS_doors))
	$(call link,-shared -Wl$(,)-z$(,)nodelete)

# A unit test NAME_…_test.c links the libraries of the folder NAME; other tests, and programs whatever their name, link everything.
define test_rules
$(1): $(patsubst $(O)/tests/%,$(O)/obj/tests/%.o,$(1)) $(call libraries,$(or $(2),$(DEPS_tools)) tests/support)
	$$(call link,-lcunit)
endef
$(foreach t,$(UNIT_TESTS),$(eval $(call test_rules,$(t),$(DEPS_$(firstword $(subst _, ,$(notdir $(t))))))))
$(foreach t,$(HELPERS),$(eval $(call test_rules,$(t))))

# A library to be loaded into a program under test: with what it needs of the engine in it, and nothing of that visible.
$(PRELOADS): $(O)/tests/preload/%.so: $(O)/obj/tests/preload/%.o $(call libraries,parallax base)
	$(call say,LINK,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) -shared $(LDFLAGS) -o $@ $(filter %.o,$^) $(filter %.a,$^)

-include $(shell find $(O)/obj -name '*.d' 2>/dev/null)

.PHONY: tests programs
tests: programs $(UNIT_TESTS)
programs: all $(HELPERS) $(PRELOADS)

.PHONY: deps
deps:
	$(Q)tests/install-deps $(PACKAGES)

.PHONY: check
check: deps
	$(Q)$(MAKE) --no-print-directory -j2 tests
	$(Q)O=$(O) TEST='$(TEST)' tests/run

.PHONY: check-crash
check-crash: deps
	$(Q)$(MAKE) --no-print-directory -j2 tests
	$(Q)O=$(O) CUTS=10000 PER_PATH=200 STRIDE=1 FLIPS=1112 TEST_TIMEOUT=86400 TEST='disk_*_test' tests/run; \
	  rc=$$?; cat $(O)/tests/logs/disk_*_test.log; exit $$rc

.PHONY: check-full
check-full: deps
	$(Q)$(MAKE) --no-print-directory -j2 $(O)/tests/crash/parallax_full_test
	$(Q)O=$(O) CYCLES=$(or $(CYCLES),1000) TEST_TIMEOUT=14400 TEST=parallax_full_test tests/run; rc=$$?; cat $(O)/tests/logs/parallax_full_test.log; exit $$rc

.PHONY: check-qemu
check-qemu: deps
	$(Q)tests/install-deps $(QEMU_PACKAGES)
	$(Q)$(MAKE) --no-print-directory -j2 all
	$(Q)O=$(O) tests/qemu/run

.PHONY: check-layers
check-layers:
	$(Q)tests/check-layers

.PHONY: check-mutants
check-mutants: deps
	$(Q)$(MAKE) --no-print-directory -j2 tests
	$(Q)O=$(O) tests/mutants/run $(MUTANT)

.PHONY: check-kill
check-kill: deps
	$(Q)$(MAKE) --no-print-directory -j2 programs
	$(Q)O=$(O) KILLS=$(or $(KILLS),1000) TEST_TIMEOUT=14400 TEST=kill_inside tests/run

.PHONY: check-asan check-tsan
check-asan check-tsan: check-%: deps
	$(Q)$(MAKE) --no-print-directory -j2 D=$* tests
	$(Q)O=build-$* TEST='$(TEST)' tests/run $*

.PHONY: check-xen check-xen-short
check-xen check-xen-short: deps
	$(Q)$(MAKE) --no-print-directory -j2 all $(addprefix $(O)/tests/programs/,disk_load ring_hostile find_block)
	$(Q)O=$(O) XEN_PACKAGES="$(XEN_PACKAGES)" tests/xen/check $(if $(filter %-short,$@),--short)

.PHONY: demo
demo: deps
	$(Q)$(MAKE) --no-print-directory -j2 tests
	$(Q)O=$(O) tools/demo/demo

.PHONY: bench
bench: deps
	$(Q)$(MAKE) --no-print-directory -j2 tests
	$(Q)O=$(O) bench/run $(if $(FORM),--$(FORM)) $(WORKLOAD)

.PHONY: bench-document
bench-document:
	$(Q)O=$(O) bench/document

.PHONY: install
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/libexec/parallax
	install -m 755 $(O)/parallax $(DESTDIR)$(PREFIX)/bin/parallax
	install -m 755 $(O)/parallaxd $(DESTDIR)$(PREFIX)/sbin/parallaxd
	install -m 755 $(O)/parallax-hypervisor $(DESTDIR)$(PREFIX)/libexec/parallax/parallax-hypervisor
	install -D -m 755 tools/xen/block-parallax $(DESTDIR)/etc/xen/scripts/block-parallax
	$(if $(PLUGIN),install -D -m 644 $(PLUGIN) $(DESTDIR)$(PLUGIN_DIR)/nbdkit-parallax-plugin.so)
	install -m 755 $(O)/parallax-mount $(DESTDIR)$(PREFIX)/libexec/parallax/parallax-mount
	for page in man/*.[1-8]; do install -D -m 644 $$page $(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$${page#man/} || exit 1; done
	install -D -m 644 tools/completion/parallax.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/parallax
	ln -sf parallax $(DESTDIR)$(PREFIX)/share/bash-completion/completions/parallaxd
	install -d $(DESTDIR)$(UNIT_DIR) $(DESTDIR)$(PREFIX)/share/doc/parallax/docs $(DESTDIR)$(PREFIX)/share/doc/parallax/examples
	for unit in tools/systemd/*.service tools/systemd/*.socket; do \
	  sed 's|=/usr/|=$(PREFIX)/|' $$unit >$(DESTDIR)$(UNIT_DIR)/$${unit##*/} || exit 1; done
	install -D -m 644 tools/systemd/sysusers.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/parallax.conf
	install -m 644 README.md $(DESTDIR)$(PREFIX)/share/doc/parallax
	install -m 644 docs/*.md docs/performance.svg $(DESTDIR)$(PREFIX)/share/doc/parallax/docs
	install -m 644 tools/config/parallax.conf $(DESTDIR)$(PREFIX)/share/doc/parallax/examples

# In a copy of the tree, because the packages appear beside it.
DEB_PACKAGES := build-essential debhelper dpkg-dev fakeroot lintian pkg-config
.PHONY: deb
deb: deps
	$(Q)tests/install-deps $(DEB_PACKAGES)
	rm -rf $(O)/deb
	mkdir -p $(O)/deb/parallax
	tar -c --exclude=./build --exclude='./build-*' --exclude=./.git . | tar -x -C $(O)/deb/parallax
	cd $(O)/deb/parallax && dpkg-buildpackage --build=binary --no-sign
	mv $(O)/deb/*.deb $(O)/
	lintian --fail-on error $(O)/parallax_*.deb

.PHONY: check-deb
check-deb: deb
	$(Q)tests/install-deps mmdebstrap
	$(Q)O=$(O) tests/deb/run

.PHONY: check-roots
check-roots: deps
	$(Q)tests/install-deps mmdebstrap
	$(Q)$(MAKE) --no-print-directory -j2 all $(O)/tests/programs/block_diff
	$(Q)O=$(O) tests/roots/run

.PHONY: clean
clean:
	rm -rf build build-asan build-tsan
