"""Many streams at once, and streams whose reader goes away."""

from concurrent.futures import ThreadPoolExecutor

from rbee import MODEL, wait_until

LONG = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20"


def test_eight_streams_at_once_all_reach_their_end(rbee):
    """Four slots serve eight readers: what does not fit waits."""

    def read(number: int) -> tuple[int, str]:
        with rbee.client() as client:
            chunks = list(
                client.completions.create(
                    model=MODEL,
                    prompt=f"Story number {number}:",
                    max_tokens=24,
                    stream=True,
                    stream_options={"include_usage": True},
                )
            )
        reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
        return chunks[-1].usage.completion_tokens, reasons[-1]

    with ThreadPoolExecutor(8) as pool:
        ends = list(pool.map(read, range(8)))

    assert len(ends) == 8
    assert all(0 < tokens <= 24 and reason in ("stop", "length") for tokens, reason in ends), ends
    wait_until("all slots are free", lambda: rbee.busy_slots() == 0)


def test_closing_a_stream_frees_its_slot(rbee, client):
    wait_until("all slots are free", lambda: rbee.busy_slots() == 0)
    # Uninterrupted, this would run for far longer than the slot is waited for.
    stream = client.completions.create(model=MODEL, prompt=LONG, temperature=0, max_tokens=1900, stream=True)
    for _, _ in zip(range(3), stream):
        pass
    wait_until("the stream has a slot", lambda: rbee.busy_slots() == 1)

    stream.close()

    wait_until("the slot is free again", lambda: rbee.busy_slots() == 0, seconds=4)


def test_a_freed_slot_serves_the_next_reader(one_slot):
    with one_slot.client() as client:
        stream = client.completions.create(model=MODEL, prompt=LONG, max_tokens=1900, stream=True)
        next(iter(stream))
        stream.close()
        answer = client.completions.create(model=MODEL, prompt=LONG, max_tokens=3)
    assert 0 < answer.usage.completion_tokens <= 3
