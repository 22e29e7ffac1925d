"""Digests by an independent reference."""

import hashlib
import shutil
import subprocess

import pytest

from align.support.digest import seed_of, sha256_of


def test_it_is_the_digest_of_the_bytes(tmp_path):
    file = tmp_path / "abc"
    file.write_bytes(b"abc")
    # FIPS 180-4, appendix B.1
    assert sha256_of(file).startswith("ba7816bf8f01cfea414140de5dae2223")
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum here")
    file.write_bytes(bytes(range(256)) * 9000)
    said = subprocess.run(["sha256sum", file], capture_output=True, text=True)
    assert said.stdout.split()[0] == sha256_of(file)


def test_a_seed_is_said_by_every_word_and_by_nothing_else():
    digest = hashlib.sha256(b"3 loss.terms.shape 7").hexdigest()
    assert seed_of(3, "loss.terms.shape", 7) == int(digest[:14], 16)
    seeds = {seed_of(s, n, t) for s in range(4) for n in "ab" for t in range(4)}
    assert len(seeds) == 32
    assert max(seeds) < 2**56
