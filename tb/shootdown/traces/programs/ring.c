/* A ring buffer of messages without any library: what the trace "compile" compiles. */
typedef unsigned int u32;

enum { SLOTS = 64, BYTES = 48 };

struct message { u32 sender, length; unsigned char body[BYTES]; };
struct ring { u32 head, tail, dropped; struct message slots[SLOTS]; };

static u32 checksum(const struct message *message)
{
	u32 sum = message->sender * 2654435761u;
	for (u32 i = 0; i < message->length; i++)
		sum = (sum << 5 | sum >> 27) ^ message->body[i];
	return sum;
}

int put(struct ring *ring, u32 sender, const unsigned char *body, u32 length)
{
	u32 next = (ring->head + 1) % SLOTS;
	if (next == ring->tail || length > BYTES) {
		ring->dropped++;
		return -1;
	}
	struct message *message = &ring->slots[ring->head];
	message->sender = sender;
	message->length = length;
	for (u32 i = 0; i < length; i++)
		message->body[i] = body[i];
	ring->head = next;
	return 0;
}

int take(struct ring *ring, struct message *out)
{
	if (ring->tail == ring->head)
		return -1;
	*out = ring->slots[ring->tail];
	ring->tail = (ring->tail + 1) % SLOTS;
	return 0;
}

u32 drain(struct ring *ring)
{
	struct message message;
	u32 sum = 0;
	while (take(ring, &message) == 0) {
		switch (message.sender % 4) {
		case 0: sum += checksum(&message); break;
		case 1: sum ^= checksum(&message); break;
		case 2: sum = sum * 31 + message.length; break;
		default: sum -= message.body[0]; break;
		}
	}
	return sum;
}
