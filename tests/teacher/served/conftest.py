"""A real HTTP server over a real small model, that answers as vLLM does, or badly."""

import json
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from teacher.loading.models import load_model

NAME = "tiny"


class Served(ThreadingHTTPServer):
    """What was asked, and what goes wrong next."""

    daemon_threads = True

    def __init__(self, loaded):
        super().__init__(("127.0.0.1", 0), Handler)
        self.loaded, self.lock = loaded, threading.Lock()
        self.faults, self.asked, self.keys = deque(), [], []
        self.name, self.at_once, self.most, self.shift = NAME, 0, 0, 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, address):
        """A client that gave up is no news."""

    @torch.no_grad()
    def logprobs(self, ids, k):
        with self.lock:
            logits = self.loaded.model(torch.tensor([ids])).logits[0]
        log_probs = logits.float().log_softmax(-1)
        places = [None]
        for at, token in enumerate(ids[1:]):
            named = {*log_probs[at].topk(k).indices.tolist(), token}
            places.append(
                {
                    str(one): {
                        "logprob": float(log_probs[at, one]),
                        "decoded_token": self.loaded.tokenizer.decode(
                            [one + self.shift]
                        ),
                    }
                    for one in named
                }
            )
        return places


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *words):
        """Says nothing."""

    def do_GET(self):
        self.answer({"data": [{"id": self.server.name}]})

    def do_POST(self):
        served = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with served.lock:
            served.asked.append(tuple(body["prompt"]))
            served.keys.append(self.headers.get("Authorization"))
            fault = served.faults.popleft() if served.faults else None
            served.at_once += 1
            served.most = max(served.most, served.at_once)
        try:
            if isinstance(fault, int):
                self.send_error(fault)
            elif fault == "gone":
                self.close_connection = True
            else:
                if isinstance(fault, float):
                    time.sleep(fault)
                places = served.logprobs(body["prompt"], body["prompt_logprobs"])
                self.answer({"choices": [{"prompt_logprobs": places}]}, fault)
        finally:
            with served.lock:
                served.at_once -= 1

    def answer(self, content, fault=None):
        data = json.dumps(content).encode()
        told = len(data)
        if fault in ("half", "cut"):
            data = data[: len(data) // 2]
        self.send_response(200)
        self.send_header("Content-Length", str(told if fault == "half" else len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture(scope="session")
def loaded(tiny_zoo):
    return load_model(str(tiny_zoo["gpt2-prose"]))


@pytest.fixture
def served(loaded):
    server = Served(loaded)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
