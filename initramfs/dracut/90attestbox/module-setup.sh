#!/bin/bash
# attestbox: attested launch in a dracut initramfs (see docs/systemd.md).

attestbox=/usr/lib/attestbox/attestbox
config=/etc/attestbox/init.json

# Only where it is configured; a fault of the configuration shows in install.
check() {
    [[ -e "${dracutsysrootdir-}$config" ]] || return 255
    require_binaries "$attestbox" "$systemdutildir/systemd-cryptsetup" || return 1
    return 0
}

depends() {
    echo systemd systemd-initrd dracut-systemd dm rootfs-block udev-rules
}

installkernel() {
    hostonly='' instmods sev-guest tsm vsock vmw_vsock_virtio_transport virtio_net virtio_blk \
        dm-mod dm-crypt dm-integrity dm-verity authenc xts ecb cbc hmac sha256 gcm chacha20poly1305 crc32c aesni-intel
}

install() {
    local line unit
    inst_binary "$attestbox"
    inst_simple "$config"
    inst_multiple -o /etc/attestbox/policy.crt

    # The configuration decides which volume is opened, and from what.
    if ! line=$("${dracutsysrootdir-}$attestbox" fetch-secret -initramfs dracut -config "${dracutsysrootdir-}$config" -crypttab); then
        dfatal "attestbox: $config is not one for dracut"
        exit 1
    fi
    printf '%s\n' "$line" > "$initdir/etc/crypttab"

    # Without dracut's own crypt module, which would take volumes from the
    # command line and ask for passwords.
    inst_multiple "$systemdutildir/systemd-cryptsetup" "$systemdutildir/system-generators/systemd-cryptsetup-generator"
    inst_multiple -o "$systemdsystemunitdir/cryptsetup.target" "$systemdsystemunitdir/cryptsetup-pre.target" \
        "$systemdsystemunitdir/sysinit.target.wants/cryptsetup.target" "$systemdsystemunitdir/system-systemd\\x2dcryptsetup.slice"
    inst_libdir_file "libcryptsetup.so*" "libgcc_s.so*"

    mkdir -p "$initdir/etc/modules-load.d"
    printf '%s\n' virtio_net vmw_vsock_virtio_transport sev-guest dm-crypt > "$initdir/etc/modules-load.d/attestbox.conf"
    # Debian's own settings would turn a part of it on again.
    mkdir -p "$initdir/etc/sysctl.d"
    echo "kernel.sysrq = 0" > "$initdir/etc/sysctl.d/99-zz-attestbox.conf"

    for unit in attestbox-fetch.service attestbox-report.service attestbox-poweroff.service; do
        inst_simple "$moddir/$unit" "$systemdsystemunitdir/$unit"
    done
    attestbox_drop_in "systemd-cryptsetup@.service" "$moddir/cryptsetup.conf"
    attestbox_drop_in "initrd-switch-root.service" "$moddir/switch-root.conf"
    attestbox_drop_in "initrd-root-fs.target" "$moddir/root-fs.conf"

    # No shell and no question, whatever fails: these power off.
    for unit in emergency.service rescue.service dracut-emergency.service; do
        attestbox_link "$systemdsystemunitdir/attestbox-poweroff.service" "/etc/systemd/system/$unit"
    done
    for unit in debug-shell.service console-getty.service getty@.service serial-getty@.service container-getty@.service \
        systemd-ask-password-console.path systemd-ask-password-console.service \
        systemd-ask-password-plymouth.path systemd-ask-password-plymouth.service systemd-ask-password-wall.path \
        systemd-volatile-root.service systemd-hibernate-resume@.service systemd-hibernate-resume.service; do
        attestbox_link /dev/null "/etc/systemd/system/$unit"
    done
    # What these generate comes from the command line, EFI variables, partition
    # tables or credentials.
    for unit in systemd-debug-generator systemd-gpt-auto-generator systemd-run-generator systemd-hibernate-resume-generator systemd-ssh-generator \
        systemd-getty-generator systemd-veritysetup-generator systemd-integritysetup-generator systemd-import-generator systemd-tpm2-generator \
        systemd-factory-reset-generator systemd-bless-boot-generator systemd-system-update-generator systemd-sysv-generator systemd-rc-local-generator; do
        attestbox_link /dev/null "/etc/systemd/system-generators/$unit"
    done
    dracut_need_initqueue 2> /dev/null || :
}

attestbox_drop_in() {
    mkdir -p "$initdir/etc/systemd/system/$1.d"
    inst_simple "$2" "/etc/systemd/system/$1.d/attestbox.conf"
}

attestbox_link() {
    mkdir -p "$initdir${2%/*}"
    ln -sfn "$1" "$initdir$2"
}
