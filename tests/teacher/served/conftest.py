"""A real HTTP server over a real small model, that answers as vLLM, SGLang or a server
that echoes do, or badly."""

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
        self.tells_ids, self.heard = False, None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, address):
        """A client that gave up is no news."""

    @torch.no_grad()
    def log_probs(self, ids):
        """(T, V), after every token."""
        with self.lock:
            logits = self.loaded.model(torch.tensor([ids])).logits[0]
        return logits.float().log_softmax(-1)

    def spelled(self, token):
        return self.loaded.tokenizer.decode([token + self.shift])

    def vllm(self, ids, k):
        """``prompt_logprobs`` by id, the token that came among them."""
        places = [None]
        for after, token in zip(self.log_probs(ids), ids[1:], strict=False):
            named = {*after.topk(k).indices.tolist(), token}
            places.append(
                {
                    str(one): {
                        "logprob": float(after[one]),
                        "decoded_token": self.spelled(one),
                    }
                    for one in named
                }
            )
        return {"choices": [{"prompt_logprobs": places}]}

    def echo(self, ids, k, as_ids):
        """The prompt's tokens and one more, by spelling, or by id where asked to."""

        def say(token):
            return f"token_id:{token}" if as_ids else self.spelled(token)

        after = self.log_probs(ids)
        every = [*ids, int(after[-1].argmax())]
        top = []
        for row in after:
            best = row.topk(k).indices.tolist()
            # as a server does whose keys are spellings: the likeliest of a name stays
            top.append({say(one): float(row[one]) for one in reversed(best)})
        came = [float(row[one]) for row, one in zip(after, every[1:], strict=True)]
        logprobs = {
            "tokens": [say(one) for one in every],
            "token_logprobs": [None, *came],
            "top_logprobs": [None, *top],
        }
        return {"choices": [{"logprobs": logprobs}]}

    def sglang(self, ids, k):
        """Triples; the likeliest k need not hold the token that came."""
        own, top = [[None, ids[0], self.spelled(ids[0])]], [None]
        for after, token in zip(self.log_probs(ids), ids[1:], strict=False):
            own.append([float(after[token]), token, self.spelled(token)])
            best = after.topk(k).indices.tolist()
            top.append([[float(after[one]), one, self.spelled(one)] for one in best])
        return {"meta_info": {"input_token_logprobs": own, "input_top_logprobs": top}}

    def answer(self, path, body):
        if path == "/generate":
            assert body["return_logprob"] and body["logprob_start_len"] == 0
            return self.sglang(body["input_ids"], body["top_logprobs_num"])
        if body.get("echo"):
            as_ids = body["return_tokens_as_token_ids"] and self.tells_ids
            return self.echo(body["prompt"], body["logprobs"], as_ids)
        return self.vllm(body["prompt"], body["prompt_logprobs"])


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *words):
        """Says nothing."""

    def do_GET(self):
        self.answer({"data": [{"id": self.server.name}]})

    def do_POST(self):
        served = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with served.lock:
            served.asked.append(tuple(body.get("prompt") or body["input_ids"]))
            served.keys.append(self.headers.get("Authorization"))
            fault = served.faults.popleft() if served.faults else None
            if served.heard is not None:
                served.heard()
            served.at_once += 1
            served.most = max(served.most, served.at_once)
        try:
            if fault == "later":
                self.send_response(429)
                self.send_header("Retry-After", "3600")
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif fault == "elsewhere":
                self.send_response(307)
                self.send_header("Location", "http://127.0.0.1:9/v1/completions")
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif isinstance(fault, int):
                self.send_error(fault)
            elif fault == "gone":
                self.close_connection = True
            else:
                if isinstance(fault, float):
                    time.sleep(fault)
                self.answer(served.answer(self.path, body), fault)
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
        for byte in data if fault == "slowly" else b"":
            self.wfile.write(bytes([byte]))
            time.sleep(0.05)
        if fault != "slowly":
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
