"""An observer of a phase that remembers what it hears, and may stop the phase."""

from student.loop.trainer import Observer


class Watching(Observer):
    """Keeps metrics lines and steps."""

    def __init__(self, lines=None, stop_at=None):
        self.lines = [] if lines is None else lines
        self.steps, self.stop_at = [], stop_at

    def log(self, line):
        self.lines.append(line)

    def tick(self, done):
        self.steps.append(done)

    def should_stop(self):
        return self.steps[-1] == self.stop_at
