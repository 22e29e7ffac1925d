"""The server of the bench says what its model says, over HTTP."""

import threading

import torch

from experiments.bench.sources.server import NAME, PromptServer
from teacher.loading.models import load_model
from teacher.served.client import Client, Patience
from teacher.served.dialects import dialect_of


def test_a_prompt_s_log_probabilities_are_those_of_the_model(tiny_zoo):
    loaded = load_model(tiny_zoo["gpt2-prose"])
    ids = loaded.tokenizer("One teacher says little.")["input_ids"]
    with PromptServer(loaded, delay=0.0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = Client(
            f"http://127.0.0.1:{server.server_port}/v1",
            NAME,
            top_k=5,
            requests=2,
            patience=Patience(budget=20, answer=20),
            dialect=dialect_of("vllm", loaded.tokenizer),
        )
        assert client.models() == [NAME]
        named = client.ask(ids)
        server.shutdown()
    with torch.no_grad():
        after = loaded.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    came = after[:-1].gather(1, torch.tensor(ids)[1:, None])[:, 0]
    torch.testing.assert_close(named.came[:-1], came, atol=1e-3, rtol=0)
