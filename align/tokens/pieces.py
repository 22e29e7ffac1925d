"""Find where printed token pieces lie in their text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

_REACH = 64
"""How many characters an unknown token may stand for."""

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_VISIBLE = str.maketrans({" ": "␣", "▁": "␣", "\n": "\\n", "\r": "\\r", "\t": "\\t"})
_MARKERS = str.maketrans({"▁": " "})


def byte_of_piece(piece: str) -> int | None:
    """The byte that a piece such as ``<0xE9>`` stands for; None of any other."""
    match = _BYTE.fullmatch(piece)
    return int(match[1], 16) if match else None


def locate_pieces(pieces: list[str], text: str) -> Tensor:
    """Place surface pieces in a text, from left to right.

    Understood are byte-level pieces (``Ġun``, ``é¥``), SentencePiece's ``▁`` and
    ``<0xE9>``, WordPiece's ``##`` with lower case and stripped accents. A piece that
    is not found ahead, such as ``[CLS]`` or ``<unk>``, gets an empty span.

    Args:
        pieces: T pieces as a tokenizer's ``convert_ids_to_tokens`` prints them.
        text: the text they were cut from.

    Returns:
        (T, 2) int64 [start, end) in characters. Byte pieces of one character all
        carry its span.
    """
    byte_level = _looks_byte_level(pieces, text)
    raw = text.encode("utf-8", errors="surrogatepass")
    char_of = [0] * (len(raw) + 1)
    byte_of = [0]
    for index, letter in enumerate(text):
        size = len(letter.encode("utf-8", errors="surrogatepass"))
        for byte in range(byte_of[-1], byte_of[-1] + size):
            char_of[byte] = index
        byte_of.append(byte_of[-1] + size)
    char_of[len(raw)] = len(text)

    spans = []
    at = 0  # bytes of the text read so far
    unmatched = False  # whether the piece before had no match
    for piece in pieces:
        match = _find_bytes(piece, raw, at, byte_level)
        if match is None:
            char = char_of[at] if at == byte_of[char_of[at]] else char_of[at] + 1
            chars = _find_folded(piece, text, char, _REACH if unmatched else 0)
            match = chars and (byte_of[chars[0]], byte_of[chars[1]])
        unmatched = match is None
        if match is None:
            spans.append((char_of[at], char_of[at]))
            continue
        start, at = match
        spans.append((char_of[start], char_of[at - 1] + 1))
    return torch.tensor(spans, dtype=torch.int64).reshape(-1, 2)


def readable_pieces(pieces: Sequence[str]) -> list[str]:
    """Surface pieces for human eyes: text decoded, blanks and line ends visible.

    Args:
        pieces: one tokenizer's pieces of one text, such as ``Ġdeep``, ``æ·±``,
            ``▁deep``, ``<0xE6>``, or plain strings.

    Returns:
        For these ``␣deep``, ``深``, ``␣deep``, ``\\xe6``; a line feed is ``\\n``.
        Bytes that are only part of a character are written in hexadecimal.
    """
    alphabet = byte_alphabet()
    byte_level = any(
        ord(char) > 255 and char in alphabet for piece in pieces for char in piece
    )
    readable = []
    for piece in pieces:
        hexadecimal = _BYTE.fullmatch(piece)
        if hexadecimal:
            raw = bytes([int(hexadecimal[1], 16)])
            piece = raw.decode(errors="backslashreplace")
        elif byte_level and all(char in alphabet for char in piece):
            raw = bytes(alphabet[char] for char in piece)
            piece = raw.decode(errors="backslashreplace")
        readable.append(piece.translate(_VISIBLE))
    return readable


def _find_bytes(
    piece: str, raw: bytes, at: int, byte_level: bool
) -> tuple[int, int] | None:
    """The piece's bytes exactly at ``at``, blanks in between allowed."""
    byte = byte_of_piece(piece)
    if byte is not None:
        want = bytes([byte])
    elif byte_level and all(char in byte_alphabet() for char in piece):
        want = bytes(byte_alphabet()[char] for char in piece)
    else:
        want = piece.translate(_MARKERS).encode("utf-8", errors="surrogatepass")
    if want and raw.startswith(want, at):
        return at, at + len(want)
    return None


def _find_folded(piece: str, text: str, at: int, reach: int) -> tuple[int, int] | None:
    """The piece at the next character that is no blank, case and accents aside.

    Up to ``reach`` characters, which an unknown token may stand for, are passed over.
    """
    bare = piece.translate(_MARKERS).strip()
    bare = bare.removeprefix("##") if len(bare) > 2 else bare
    want = _fold(bare)
    if not want:
        return None
    for start in range(at, min(at + reach + 1, len(text))):
        while start < len(text) and not _fold(text[start]).strip():
            start += 1
        have, end = "", start
        while end < len(text) and len(have) < len(want):
            have += _fold(text[end])
            end += 1
        if have == want:
            while end < len(text) and unicodedata.combining(text[end]):
                end += 1
            return start, end
    return None


def _fold(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.lower())
    return "".join(char for char in decomposed if not unicodedata.combining(char))


def _looks_byte_level(pieces: list[str], text: str) -> bool:
    """Whether the pieces spell the text's bytes in the byte-level alphabet."""
    alphabet = byte_alphabet()
    spelled = "".join(
        piece for piece in pieces if all(char in alphabet for char in piece)
    )
    if "Ġ" in spelled or "Ċ" in spelled:
        return True
    raw = bytes(alphabet[char] for char in spelled)
    return raw == text.encode("utf-8", errors="surrogatepass")


@cache
def byte_alphabet() -> dict[str, int]:
    """The byte that each printable character stands for (Radford et al., 2019)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + index): byte for index, byte in enumerate(hidden)})
    return table
