import torch

from student.output.divergence.support import Support, fill_tail_, in_tail

P = torch.tensor([[0.5, 0.2, 0.2, 0.06, 0.04]])


def test_the_tail_is_what_the_teacher_does_not_name():
    log_p = P.log()
    assert in_tail(log_p, Support()) is None
    assert in_tail(log_p, Support(top_k=5)) is None
    expected = torch.tensor([[False, False, False, True, True]])
    assert torch.equal(in_tail(log_p, Support(top_k=2)), expected)  # equals are named
    assert torch.equal(in_tail(log_p, Support(threshold=0.1)), expected)


def test_the_tails_mass_is_spread_as_the_student_spreads_its_own():
    student = torch.tensor([[0.1, 0.1, 0.2, 0.45, 0.15]])
    teacher = P.log()
    fill_tail_(teacher, student.log(), Support(top_k=2))
    expected = torch.tensor([[0.5, 0.2, 0.2, 0.075, 0.025]])  # 0.1 as 3 to 1
    torch.testing.assert_close(teacher.exp(), expected)
