/*
 * A small ledger, as a database that lives in shared file mappings.
 *
 * usage: shared FOLDER
 *
 * Accounts and journal are files mapped MAP_SHARED and writable; each round posts transfers to both
 * and makes them durable with msync. The rates are a file mapped MAP_PRIVATE: they are read, then
 * revalued in memory only (copy on write), and mapped anew every second round. A ranking of the
 * accounts is sorted in one anonymous buffer that every round uses again.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, ROUNDS = 6, TRANSFERS = 2200, RATE_STEP = 128 };
enum { ACCOUNTS_BYTES = 192 * PAGE, JOURNAL_BYTES = 160 * PAGE, RATES_BYTES = 128 * PAGE };

struct account { int64_t balance; uint64_t postings; uint64_t rate; char owner[40]; };
struct record { uint32_t from, to; int64_t amount; uint64_t sequence, check; };
struct rank { uint32_t key, account; };

#define ACCOUNTS (ACCOUNTS_BYTES / sizeof(struct account))
#define RECORDS (JOURNAL_BYTES / sizeof(struct record))
#define RATES (RATES_BYTES / sizeof(uint64_t))
#define RANKS_BYTES (2 * ACCOUNTS * sizeof(struct rank))

static uint64_t state = 20080204;

static uint32_t chance(uint32_t below)
{
	state = state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)((state >> 33) * (uint64_t)below >> 31);
}

static void *must(void *address, const char *what)
{
	if (address == MAP_FAILED) {
		perror(what);
		exit(1);
	}
	return address;
}

static int create(const char *folder, const char *name, size_t bytes)
{
	char path[512];
	snprintf(path, sizeof path, "%s/%s", folder, name);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || ftruncate(fd, (off_t)bytes)) {
		perror(path);
		exit(1);
	}
	return fd;
}

static void fill_rates(int fd)
{
	static uint64_t page[PAGE / sizeof(uint64_t)];
	for (size_t at = 0; at < RATES_BYTES; at += PAGE) {
		for (size_t i = 0; i < PAGE / sizeof(uint64_t); i++)
			page[i] = 900 + chance(200);
		if (pwrite(fd, page, PAGE, (off_t)at) != PAGE) {
			perror("rates");
			exit(1);
		}
	}
}

static void post(struct account *accounts, struct record *journal, const uint64_t *rates,
		 uint64_t sequence)
{
	uint32_t from = chance(ACCOUNTS), to = chance(ACCOUNTS);
	int64_t amount = (int64_t)chance(1000) * (int64_t)rates[accounts[from].rate] / 1000;
	struct record *record = &journal[sequence % RECORDS];
	accounts[from].balance -= amount;
	accounts[from].postings++;
	accounts[to].balance += amount;
	accounts[to].postings++;
	*record = (struct record){ from, to, amount, sequence, from * 31u + to + (uint64_t)amount };
}

static uint64_t revalue(uint64_t *rates, uint32_t round)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < RATES; i++)
		sum += rates[i];
	for (size_t i = round % RATE_STEP; i < RATES; i += RATE_STEP)
		rates[i] += sum / RATES / 1000 + 1;
	return sum;
}

static uint32_t rank_accounts(const struct account *accounts, struct rank *ranks)
{
	struct rank *from = ranks, *to = ranks + ACCOUNTS;
	for (size_t i = 0; i < ACCOUNTS; i++)
		from[i] = (struct rank){ (uint32_t)(accounts[i].balance + (1 << 23)), (uint32_t)i };
	for (int shift = 0; shift < 24; shift += 12) {
		static uint32_t count[4097];
		memset(count, 0, sizeof count);
		for (size_t i = 0; i < ACCOUNTS; i++)
			count[(from[i].key >> shift & 4095) + 1]++;
		for (int i = 0; i < 4096; i++)
			count[i + 1] += count[i];
		for (size_t i = 0; i < ACCOUNTS; i++)
			to[count[from[i].key >> shift & 4095]++] = from[i];
		struct rank *swap = from;
		from = to;
		to = swap;
	}
	return from[ACCOUNTS - 1].account;
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fputs("usage: shared FOLDER\n", stderr);
		return 1;
	}
	int accounts_fd = create(argv[1], "accounts", ACCOUNTS_BYTES);
	int journal_fd = create(argv[1], "journal", JOURNAL_BYTES);
	int rates_fd = create(argv[1], "rates", RATES_BYTES);
	fill_rates(rates_fd);
	struct account *accounts = must(mmap(NULL, ACCOUNTS_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
					     accounts_fd, 0), "accounts");
	struct record *journal = must(mmap(NULL, JOURNAL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
					   journal_fd, 0), "journal");
	struct rank *ranks = must(mmap(NULL, RANKS_BYTES, PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "ranking");
	uint64_t *rates = NULL, sequence = 0, sum = 0;
	uint32_t richest = 0;

	for (size_t i = 0; i < ACCOUNTS; i++)
		accounts[i].rate = chance(RATES);
	for (uint32_t round = 0; round < ROUNDS; round++) {
		if (round % 2 == 0) {
			if (rates)
				munmap(rates, RATES_BYTES);
			rates = must(mmap(NULL, RATES_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE,
					  rates_fd, 0), "rates");
		}
		for (int i = 0; i < TRANSFERS; i++)
			post(accounts, journal, rates, sequence++);
		msync(journal, JOURNAL_BYTES, MS_SYNC);
		sum = revalue(rates, round);
		richest = rank_accounts(accounts, ranks);
		msync(accounts, ACCOUNTS_BYTES, round % 3 ? MS_SYNC : MS_ASYNC);
	}
	printf("%llu transfers, richest %u, rates %llu\n", (unsigned long long)sequence, richest,
	       (unsigned long long)sum);
	return 0;
}
