/*
 * A key-value store that saves itself as databases do: fork, let the child write the snapshot, and
 * go on updating in the parent.
 *
 * usage: snapshot FILE
 *
 * After each fork the parent updates entries all over the table, and the child sorts its copy of the
 * index in place and marks each entry that it has saved, so both sides write pages that they share.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ENTRIES = 8192, SNAPSHOTS = 4, UPDATES = 3000, VALUE_BYTES = 100 };

struct entry { uint64_t key; uint32_t version, saved; char value[VALUE_BYTES]; };

static struct entry *table;
static uint32_t *order;
static uint64_t state = 1;

static uint32_t chance(uint32_t below)
{
	state = state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)((state >> 33) * (uint64_t)below >> 31);
}

static void update(uint64_t key)
{
	size_t at = key * 0x9e3779b97f4a7c15u >> 51;
	while (table[at].key && table[at].key != key)
		at = (at + 1) % ENTRIES;
	if (!table[at].key)
		order[at] = (uint32_t)at;
	table[at].key = key;
	table[at].version++;
	memset(table[at].value, (int)('a' + table[at].version % 26), VALUE_BYTES);
}

static int by_key(const void *left, const void *right)
{
	uint64_t a = table[*(const uint32_t *)left].key, b = table[*(const uint32_t *)right].key;
	return (a > b) - (a < b);
}

static int save(const char *path)
{
	FILE *file = fopen(path, "wb");
	if (!file)
		return 1;
	/* Sections of the index, as a real snapshot saves slot by slot. */
	for (size_t at = 0; at < ENTRIES; at += 64) {
		qsort(order + at, 64, sizeof *order, by_key);
		for (size_t i = at; i < at + 64; i++) {
			struct entry *entry = &table[order[i]];
			if (!entry->key)
				continue;
			entry->saved = entry->version;
			fwrite(entry, sizeof *entry, 1, file);
		}
	}
	return fclose(file) != 0;
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fputs("usage: snapshot FILE\n", stderr);
		return 1;
	}
	table = mmap(NULL, ENTRIES * sizeof *table, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	order = malloc(ENTRIES * sizeof *order);
	if (table == MAP_FAILED || !order)
		return 1;
	for (uint32_t i = 0; i < ENTRIES; i++)
		order[i] = i;
	for (int i = 0; i < 2 * UPDATES; i++)
		update(1 + chance(ENTRIES / 2));
	for (int snapshot = 0; snapshot < SNAPSHOTS; snapshot++) {
		pid_t child = fork();
		if (child < 0)
			return 1;
		if (child == 0)
			_exit(save(argv[1]));
		for (int i = 0; i < UPDATES; i++)
			update(1 + chance(ENTRIES / 2));
		int status;
		if (waitpid(child, &status, 0) != child || status)
			return 1;
	}
	printf("%d snapshots of %d entries\n", SNAPSHOTS, ENTRIES);
	return 0;
}
