// The real system of the boot benchmark: says how long ago the kernel started,
// by the guest's own clock, and powers off. No library: what follows switch_root
// is not what is measured.
#include <asm/unistd.h>

static long call(long n, long a, long b, long c, long d) {
	long r;
	register long r10 __asm__("r10") = d;
	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return r;
}

__attribute__((force_align_arg_pointer)) void _start(void) {
	long t[2], ms, i;
	char line[] = "bench: up 00000.000\n";
	call(__NR_clock_gettime, 7 /* CLOCK_BOOTTIME */, (long)t, 0, 0);
	ms = t[1] / 1000000;
	for (i = 18; i > 15; i--, ms /= 10) line[i] = '0' + ms % 10;
	for (i = 14; i > 9; i--, t[0] /= 10) line[i] = '0' + t[0] % 10;
	call(__NR_write, 1, (long)line, sizeof line - 1, 0);
	call(__NR_sync, 0, 0, 0, 0);
	call(__NR_reboot, 0xfee1dead, 672274793, 0x4321fedc /* power off */, 0);
	for (;;) call(__NR_pause, 0, 0, 0, 0);
}
