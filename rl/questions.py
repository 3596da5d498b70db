"""Which questions are asked next: in the task's order, with the position kept. A curriculum replaces this one class."""

from rl.tasks.base import Task
from rl.types import Group, Question


class Questions:
    """The training questions of a task, one after another."""

    def __init__(self, task: Task) -> None:
        self.task, self.position = task, 0

    def next(self, count: int) -> list[Question]:
        """The next `count` questions."""
        questions = [self.task.train_question(self.position + i) for i in range(count)]
        self.position += count
        return questions

    def update(self, groups: list[Group]) -> None:
        """Told what was hard; plain order does not use it."""

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]
