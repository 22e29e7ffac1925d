"""Tests that a third party runs against its own plugin."""

from plugins.contracts.check import (
    CONTRACTS,
    assert_contract,
    check,
)

__all__ = [
    "CONTRACTS",
    "assert_contract",
    "check",
]
