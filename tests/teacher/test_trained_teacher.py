import torch

from teacher.capture.kv_capture import KVCapture
from teacher.loading.models import load_model
from teacher.trained_teacher import TrainedTeacher


def test_its_head_follows_the_weights_and_takes_no_gradient(tiny_zoo):
    loaded = load_model(str(tiny_zoo["student"]))
    model = loaded.model.requires_grad_(True)
    teacher = TrainedTeacher("me", loaded, KVCapture(model))
    assert model.get_output_embeddings().weight.requires_grad
    assert not teacher.head.weight.requires_grad
    with torch.no_grad():
        model.get_output_embeddings().weight.add_(1)
    assert teacher.head.weight.equal(model.get_output_embeddings().weight)
