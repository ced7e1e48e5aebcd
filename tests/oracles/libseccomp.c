/* What libseccomp makes of a profile: the second opinion of the tests of podrun's compiler.
 *
 * Reads commands, one a line; answers each `end` and each `number` with one line.
 *   filter HOST DEFAULT        a new profile for this architecture, with this default action (both numbers)
 *   arch TOKEN                 one more architecture
 *   rule ACTION NAME N [INDEX OP A B]…    N conditions
 *   optimize                   the binary tree that runc asks for
 *   end                        answers `program` and the instructions as 64-bit hexadecimal numbers, or `error ERRNO`
 *                              (62, ETIME: libseccomp went round in circles; some versions do on rules that overlap)
 *   number TOKEN NAME          answers with the call's number, negative when this architecture lacks it
 *
 * Built and run by the tests: cc -o libseccomp libseccomp.c -lseccomp
 */
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static sigjmp_buf too_long;

static void stop(int signal)
{
	siglongjmp(too_long, signal);
}

static void export_program(scmp_filter_ctx filter)
{
	FILE *file = tmpfile();
	uint64_t instruction;
	int rc = file == NULL ? -1 : seccomp_export_bpf(filter, fileno(file));

	if (rc < 0) {
		printf("error %d\n", -rc);
	} else {
		printf("program");
		rewind(file);
		while (fread(&instruction, sizeof(instruction), 1, file) == 1)
			printf(" %" PRIx64, instruction);
		printf("\n");
	}
	if (file != NULL)
		fclose(file);
}

static int add_rule(scmp_filter_ctx filter)
{
	struct scmp_arg_cmp when[6];
	uint32_t action;
	char name[64];
	unsigned int count, index, op;
	int number;

	if (scanf("%" SCNu32 " %63s %u", &action, name, &count) != 3 || count > 6)
		exit(2);
	for (unsigned int i = 0; i < count; i++) {
		if (scanf("%u %u %" SCNu64 " %" SCNu64, &index, &op, &when[i].datum_a, &when[i].datum_b) != 4)
			exit(2);
		when[i].arg = index;
		when[i].op = (enum scmp_compare)op;
	}
	number = seccomp_syscall_resolve_name(name);
	if (filter == NULL)
		return 0;
	if (number == __NR_SCMP_ERROR)
		return 0; /* as runc: a name that is not known has no effect */
	return seccomp_rule_add_array(filter, action, number, count, when);
}

int main(void)
{
	scmp_filter_ctx volatile filter = NULL;
	char word[16], name[64];
	uint32_t token, action;
	volatile int rc = 0;

	signal(SIGALRM, stop);
	while (scanf("%15s", word) == 1) {
		if (!strcmp(word, "filter")) {
			if (scanf("%" SCNu32 " %" SCNu32, &token, &action) != 2)
				return 2;
			seccomp_release(filter);
			filter = seccomp_init(action);
			rc = filter == NULL ? -1 : 0;
			if (rc == 0 && token != seccomp_arch_native()) {
				rc = seccomp_arch_add(filter, token);
				if (rc == 0)
					rc = seccomp_arch_remove(filter, seccomp_arch_native());
			}
		} else if (!strcmp(word, "arch")) {
			if (scanf("%" SCNu32, &token) != 1)
				return 2;
			if (rc == 0 && seccomp_arch_exist(filter, token) != 0)
				rc = seccomp_arch_add(filter, token);
		} else if (!strcmp(word, "rule")) {
			if (sigsetjmp(too_long, 1) == 0) {
				alarm(1);
				int added = add_rule(filter);
				alarm(0);
				if (rc == 0)
					rc = added;
			} else {
				rc = -62;
				filter = NULL; /* in an unknown state: left alone */
			}
		} else if (!strcmp(word, "optimize")) {
			if (rc == 0)
				rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
		} else if (!strcmp(word, "end")) {
			if (rc == 0 && sigsetjmp(too_long, 1) == 0) {
				alarm(1);
				export_program(filter);
				alarm(0);
			} else if (rc == 0) {
				filter = NULL;
				printf("error 62\n");
			} else
				printf("error %d\n", -rc);
		} else if (!strcmp(word, "number")) {
			if (scanf("%" SCNu32 " %63s", &token, name) != 2)
				return 2;
			printf("%d\n", seccomp_syscall_resolve_name_arch(token, name));
		} else {
			return 2;
		}
	}
	seccomp_release(filter);
	return 0;
}
