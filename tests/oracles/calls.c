/* Makes system calls by number, on each ABI that x86_64 has, and says what the kernel answered: a program that a
 * seccomp filter is tried on.
 *
 *   calls [64|32|x32]:NUMBER[:ARG0[:ARG1]] …     prints a line a call: the errno, 0 for success
 *
 * Built and run by the tests: cc -o calls calls.c
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static long call_64(long number, long a, long b)
{
	long answer;
	register long r10 __asm__("r10") = 0;

	__asm__ volatile("syscall"
			 : "=a"(answer)
			 : "a"(number), "D"(a), "S"(b), "d"(0L), "r"(r10)
			 : "rcx", "r11", "memory");
	return answer;
}

static long call_32(long number, long a, long b)
{
	int answer;

	__asm__ volatile("int $0x80"
			 : "=a"(answer)
			 : "a"((int)number), "b"((int)a), "c"((int)b), "d"(0)
			 : "memory", "r8", "r9", "r10", "r11");
	return answer;
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		char *rest = strchr(argv[i], ':');
		long words[3] = { 0, 0, 0 }, answer;

		if (rest == NULL)
			return 2;
		for (int n = 0; n < 3 && rest != NULL; n++, rest = strchr(rest, ':'))
			words[n] = strtol(rest + 1, &rest, 0);
		if (!strncmp(argv[i], "32:", 3))
			answer = call_32(words[0], words[1], words[2]);
		else if (!strncmp(argv[i], "x32:", 4))
			answer = call_64(words[0] | 0x40000000, words[1], words[2]);
		else
			answer = call_64(words[0], words[1], words[2]);
		printf("%ld\n", answer < 0 && answer > -4096 ? -answer : 0);
		fflush(stdout);
	}
	return 0;
}
