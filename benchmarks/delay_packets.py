"""Carries packets from one TUN device to another, each after a delay, and back (slow_link.py).

python delay_packets.py DELAY_S FD FD
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections import deque
from typing import Final

_MOST_BYTES: Final = (64 << 10) + 64
"""The longest packet, with the header that says how it is to be cut (struct virtio_net_hdr)."""
_READS_AT_ONCE: Final = 64


def carry(delay_s: float, first: int, second: int) -> None:
    """Hand each packet of one device to the other one after `delay_s`, for ever."""
    others = {first: second, second: first}
    waiting: dict[int, deque[tuple[float, bytes]]] = {first: deque(), second: deque()}
    for device in others:
        os.set_blocking(device, False)
    while True:
        now_s = time.monotonic()
        for device, packets in waiting.items():
            while packets and packets[0][0] <= now_s:
                os.write(others[device], packets.popleft()[1])
        due_s = [packets[0][0] for packets in waiting.values() if packets]
        timeout_s = max(0.0, min(due_s) - time.monotonic()) if due_s else None
        for device in select.select(list(others), (), (), timeout_s)[0]:
            packets = waiting[device]
            for _ in range(_READS_AT_ONCE):
                try:
                    packet = os.read(device, _MOST_BYTES)
                except BlockingIOError:
                    break
                packets.append((time.monotonic() + delay_s, packet))


if __name__ == "__main__":
    carry(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
