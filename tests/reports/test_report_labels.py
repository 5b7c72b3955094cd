"""Labels in a frame: none lies on another, on a mark, or outside."""

import numpy as np

from mia_lightning.reports.labels import LETTER_WIDTH, framed_places


def test_labels_hide_no_mark_and_no_label_and_stay_in_the_frame() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        points = [tuple(each) for each in random.random((12, 2)).tolist()]
        marks = points + [tuple(each) for each in random.random((20, 2)).tolist()]
        names = ["x" * int(length) for length in random.integers(3, 22, 12)]
        boxes = []
        for index, place in framed_places(points, names, marks).items():
            (x, y), width = points[index], LETTER_WIDTH * len(names[index])
            left = x if place.endswith("right") else x - width
            height = y + {"t": 0.03, "m": 0.0, "b": -0.03}[place[0]]
            boxes.append((left, left + width, height))
            assert left >= -0.02
            assert left + width <= 1.02
        for place, (left, right, height) in enumerate(boxes):
            for other_left, other_right, other_height in boxes[:place]:
                assert right <= other_left + 0.03 or other_right <= left + 0.03 or abs(height - other_height) > 0.03
            hidden = [(x, y) for x, y in marks if left + 0.03 < x < right - 0.03 and abs(y - height) < 0.02]
            assert hidden == []


def test_the_first_of_two_at_one_place_has_the_better_side() -> None:
    assert framed_places([(0.5, 0.5), (0.5, 0.5)], ["one", "two"], []) == {0: "middle right", 1: "middle left"}
    assert framed_places([(0.99, 0.5)], ["one"], []) == {0: "middle left"}
    assert framed_places([(0.5, 0.5)], ["long" * 30], []) == {}
