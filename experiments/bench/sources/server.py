"""A server of prompt log-probabilities over a small model, for the bench beside it.

    python -m experiments.bench.sources.server MODEL DELAY_MS

Answers as vLLM does (``prompt_logprobs``), one forward pass at a time, each answer so
many milliseconds late, as one of a distant or busy server is; prints its port.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NAME = "served"


class PromptServer(ThreadingHTTPServer):
    """Holds the model; listens on the loopback address alone."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, loaded: Any, delay: float) -> None:
        """Listen on a free port.

        Args:
            loaded: a model with its tokenizer.
            delay: seconds that every answer is late.
        """
        super().__init__(("127.0.0.1", 0), _Handler)
        self.loaded, self.delay, self.lock = loaded, delay, threading.Lock()

    def answer(self, ids: list[int], top_k: int) -> dict[str, Any]:
        """Log-probabilities of a prompt, of what came and of the likeliest instead."""
        import torch

        time.sleep(self.delay)
        with self.lock, torch.no_grad():
            logits = self.loaded.model(torch.tensor([ids])).logits[0].float()
            after = logits.log_softmax(-1)
            best = after.topk(top_k)
        places: list[dict[str, Any] | None] = [None]
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        for (names, values), token, row in zip(rows, ids[1:], after, strict=False):
            named = {
                **dict(zip(names, values, strict=True)),
                token: float(row[token]),
            }
            places.append({str(i): {"logprob": value} for i, value in named.items()})
        return {"choices": [{"prompt_logprobs": places}]}


class _Handler(BaseHTTPRequestHandler):
    server: PromptServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *words: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self._send({"data": [{"id": NAME}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._send(self.server.answer(body["prompt"], body["prompt_logprobs"]))

    def _send(self, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main(model: str, delay_ms: str) -> None:
    """Serve until stopped."""
    import torch

    from teacher.loading.models import load_model

    torch.set_num_threads(1)
    with PromptServer(load_model(model), float(delay_ms) / 1000) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
