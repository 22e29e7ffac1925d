from teacher.served.dialects import Echo


class Spelled:
    """A tokenizer of four tokens, of which two are bytes of a character."""

    def __len__(self):
        return 4

    def batch_decode(self, ids):
        return [("a", "b", "\ufffd", "\ufffd")[token] for (token,) in ids]


def test_a_spelling_of_several_tokens_names_none_of_them():
    logprobs = {
        "tokens": ["a", "\ufffd", "b"],
        "token_logprobs": [None, -2.5, -0.25],
        "top_logprobs": [None, {"\ufffd": -0.5, "a": -1.0}, {"b": -0.25}],
    }
    first, second = Echo(Spelled()).places(
        {"choices": [{"logprobs": logprobs}]}, [0, 3, 1]
    )
    assert first.likeliest == {0: -1.0}  # whose of 2 and 3 the -0.5 is nobody knows
    assert first.came == -2.5  # what was sent is known all the same
    assert (second.likeliest, second.came) == ({1: -0.25}, -0.25)
