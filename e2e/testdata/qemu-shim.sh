#!/bin/bash
# Stands in for QEMU on an SNP host: takes the options that decide what is
# launched and hands them to the simulator. What it does not know is an error.
set -euo pipefail
kernel= initrd= append= bios= disk= host_data=
while [ $# -gt 0 ]; do
  case $1 in
  -enable-kvm | -nodefaults | -no-user-config | -no-reboot) shift; continue ;;
  -display | -serial) ;;
  -kernel) kernel=$2 ;;
  -initrd) initrd=$2 ;;
  -append) append=$2 ;;
  -bios) bios=$2 ;;
  -m) memory=$2 ;;
  -smp) vcpus=$2 ;;
  -cpu) cpu=$2 ;;
  -machine) [[ $2 = *confidential-guest-support=sev0* ]] || exit 1 ;;
  -nic) [[ $2 = user,* ]] || exit 1 ;;
  -drive) disk=${2#file=} disk=${disk%%,*} ;;
  -object)
    case $2 in
    sev-snp-guest,*)
      [[ $2 = *,kernel-hashes=on,policy=0x30000,* ]] || { echo "kernel hashes are off" >&2; exit 1; }
      host_data=${2##*host-data=} host_data=${host_data%%,*}
      host_data=$(printf %s "$host_data" | base64 -d | od -An -v -tx1 | tr -d ' \n')
      ;;
    memory-backend-memfd,*) ;;
    *) exit 1 ;;
    esac
    ;;
  *) echo "option $1 is unknown" >&2; exit 1 ;;
  esac
  shift 2
done
exec bin/attestbox snp-sim run -chip chip -kernel "$kernel" -initrd "$initrd" -append "$append" -ovmf "$bios" \
  -vcpus "$vcpus" -vcpu-type "$cpu" -memory "$memory" -disk "$disk" -host-data "$host_data" -net user -timeout 4m
