#!/bin/sh
# Makes the real system of scenario 1 in a folder: busybox as its init, and two
# services of ours, as units of any init would run them. What an attested boot
# needs lies in the measured initramfs; this is an ordinary root file system.
#
#   system.sh BUSYBOX ATTESTBOX POLICY-CERTIFICATE FOLDER
set -eu
busybox=$1 attestbox=$2 policy=$3 dir=$4
for d in bin sbin dev proc sys run tmp root etc/init.d etc/attestbox var/lib/attestbox; do mkdir -p "$dir/$d"; done
cp "$busybox" "$dir/bin/busybox"
cp "$attestbox" "$dir/bin/attestbox"
cp "$policy" "$dir/etc/attestbox/policy.crt"
chmod 755 "$dir/bin/busybox" "$dir/bin/attestbox"
for a in sh cat echo grep head sleep poweroff; do ln -s busybox "$dir/bin/$a"; done
ln -s ../bin/busybox "$dir/sbin/init"
for a in certify attestd attestd-client; do ln -s attestbox "$dir/bin/$a"; done
cat >"$dir/etc/inittab" <<'END'
::sysinit:/etc/init.d/start
::respawn:/bin/certify -server tcp://10.0.2.2:8451 -renew
::respawn:/bin/attestd -policy-cert /etc/attestbox/policy.crt -store /var/lib/attestbox/bank.example.store
::once:/etc/init.d/program
END
cat >"$dir/etc/init.d/start" <<'END'
#!/bin/sh
echo "scenario1: system: the real system is up"
exec /bin/certify -server tcp://10.0.2.2:8451
END
# A program of the system, which asks attestd for what it needs.
cat >"$dir/etc/init.d/program" <<'END'
#!/bin/sh
until [ -S /run/attestbox/attestd.sock ]; do sleep 1; done
echo "scenario1: system: I am $(attestd-client whoami 2>&1 | head -n 1)"
echo "scenario1: system: certificates: $(attestd-client certificate 2>/dev/null | grep -c 'BEGIN CERTIFICATE')"
poweroff
END
chmod 755 "$dir/etc/init.d/start" "$dir/etc/init.d/program"
