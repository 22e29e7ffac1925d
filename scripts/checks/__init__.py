"""The facts that `test_multi_teacher.py` tries, package by package."""
