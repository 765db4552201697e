"""Asks at a fixed rate, whether answers come or not; a process of its own, so that nobody's clock waits for another.

python -m tests.serving.open_loop PORT PATH BODY RATE SECONDS: prints counts by status and the seconds of each 200.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path

TIMEOUT_S = 30.0


async def main(port: int, path: str, body: bytes, rate: float, seconds: float) -> dict:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    counts: Counter[str] = Counter()
    taken: list[float] = []

    async def ask() -> None:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reader, writer = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
                writer.write(head + body)
                said = await reader.readuntil(b"\r\n\r\n")
                lower = said.lower()
                await reader.readexactly(int(lower.split(b"content-length:")[1].split(b"\r\n")[0]))
        except TimeoutError:
            counts["timeout"] += 1
            return
        except (OSError, EOFError) as error:
            counts[type(error).__name__] += 1
            return
        status = said.split()[1].decode()
        counts[status] += 1
        if status == "200":
            taken.append(time.perf_counter() - started)
        if status == "503" and b"retry-after: 1" not in lower:
            counts["503 without retry-after"] += 1
        if b"connection: close" in lower:
            writer.close()
        else:
            idle.append((reader, writer))

    began = time.perf_counter()
    tasks = set()
    for number in range(int(rate * seconds)):
        if (ahead := began + number / rate - time.perf_counter()) > 0:
            await asyncio.sleep(ahead)
        elif number % 20 == 0:
            await asyncio.sleep(0)
        tasks.add(asyncio.create_task(ask()))
    await asyncio.gather(*tasks)
    return {"counts": counts, "taken": sorted(taken), "seconds": time.perf_counter() - began}


if __name__ == "__main__":
    port, path, body, rate, seconds = sys.argv[1:]
    print(json.dumps(asyncio.run(main(int(port), path, Path(body).read_bytes(), float(rate), float(seconds)))))
