"""medqa.metrics: what an answer covers and repeats, and intervals that cover what they promise."""

import random

import numpy as np
import pytest

from medqa import metrics


@pytest.mark.parametrize(
    ("answer", "point", "covered"),
    [
        ("It causes Chest  pain, mostly.", "chest pain", True),
        ("pain in the chest", "chest pain", False),  # short points count word for word
        ("chest pains", "chest pain", False),
        ("", "chest pain", False),
        ("Drink water and rest, avoid smoke.", "Drink water, rest, and avoid all alcohol.", True),
        ("Drink water and rest.", "Drink water, rest, and avoid all alcohol.", False),
        ("anything", "That is as it was.", False),  # nothing but stop words: they must be there
        ("as that is, it was", "That is as it was.", True),
        # Scripts without spaces: up to four characters as they are; of up to eight none may be missing.
        ("患者有胸痛和发热。", "胸痛", True),
        ("高血糖和低血压", "高血压", False),
        ("要多休息，多喝水。", "多喝水，多休息。", True),
        ("原发性低血压", "原发性高血压", False),
        ("维生素B6缺乏", "维生素B12缺乏", False),
        ("建议患者多饮水，注意休息。", "患者应当多喝水并注意休息。", True),
        ("一般首选血管紧张素转换酶抑制剂（ACEI）治疗。", "首选药物是血管紧张素转换酶抑制剂。", True),
        (
            "感冒通常由病毒引起，一般一周内可以自行好转，不需要使用抗生素。",
            "患者应当多喝水并注意休息。",
            False,
        ),
        ("水分を十分に取り、安静にしてください。", "安静にして水分を十分にとることが大切です。", True),
        (
            "風邪はウイルスによって起こり、一週間ほどで治ります。",
            "安静にして水分を十分にとることが大切です。",
            False,
        ),
        ("ควรพักผ่อนให้เพียงพอและดื่มน้ำมากๆ", "ผู้ป่วยควรดื่มน้ำมากๆและพักผ่อน", True),
        ("ไข้หวัดเกิดจากเชื้อไวรัส มักหายได้เองภายในหนึ่งสัปดาห์", "ผู้ป่วยควรดื่มน้ำมากๆและพักผ่อน", False),
        ("बुखार और खाँसी के साथ दर्द", "बुखार और खाँसी", True),
    ],
)
def test_covers(answer: str, point: str, covered: bool) -> None:
    assert metrics.covers(answer, point) == covered


def test_key_point_recall_is_a_share() -> None:
    recall = metrics.key_point_recall("fever and a rash", ["fever", "rash", "chest pain"])
    assert recall == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("answer", "reference", "f1"),
    [
        ("fever, rash", "Rash. Fever!", 1),
        ("fever", "rash", 0),
        ("", "rash", 0),
        ("", "", 0),
        ("fever fever", "fever", 2 / 3),
        ("a b c d", "a b", 2 / 3),
        ("低血压", "高血压", 2 / 3),
        ("多饮水", "胸痛", 0),
    ],
)
def test_token_f1(answer: str, reference: str, f1: float) -> None:
    assert metrics.token_f1(answer, reference) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("answer", "reference", "f1"),
    [
        ("Fever, rash.", "fever rash!", 1),
        ("rash fever", "fever rash", 1 / 2),  # either word, but not both in order
        ("fever", "rash", 0),
        ("", "rash", 0),
        ("", "", 0),
        ("fever fever", "fever", 2 / 3),
        ("police kill the gunman", "police killed the gunman", 3 / 4),  # as in the paper
        ("the gunman kill police", "police killed the gunman", 1 / 2),
        ("a x b y c z", "a b c", 2 * 3 / (6 + 3)),
        ("a b c d e f g", "c d x a b e", 2 * 3 / (7 + 6)),  # a b e, or c d e
    ],
)
def test_rouge_l(answer: str, reference: str, f1: float) -> None:
    assert metrics.rouge_l(answer, reference) == pytest.approx(f1)
    assert metrics.rouge_l(reference, answer) == metrics.rouge_l(answer, reference)


@pytest.mark.parametrize(
    ("answer", "reference", "share"),
    [
        ([[1, 0]], [[1, 0]], 1),
        ([[1, 0]], [[1, 0], [0, 1]], 1 / 2),  # the second sentence is nowhere in the answer
        ([[0, 1], [0.6, 0.8], [1, 0]], [[1, 0], [0.8, 0.6]], (1 + 0.96) / 2),  # the best of three each
        ([[-1, 0]], [[1, 0], [0.6, 0.8]], 0),  # a cosine below 0 is none
        ([[1.0000001, 0]], [[1, 0]], 1),
        ([], [[1, 0]], 0),
    ],
)
def test_coverage(answer: list[list[float]], reference: list[list[float]], share: float) -> None:
    vectors = [np.array(side, dtype=np.float32).reshape(-1, 2) for side in (answer, reference)]
    assert metrics.coverage(*vectors) == pytest.approx(share, abs=1e-7)


def textbook_length(first: list[str], second: list[str]) -> int:
    """The length of the longest common subsequence by the textbook's table."""
    above = [0] * (len(second) + 1)
    for word in first:
        row = [0]
        for index, candidate in enumerate(second):
            row.append(above[index] + 1 if word == candidate else max(above[index + 1], row[-1]))
        above = row
    return above[-1]


def test_common_subsequences_are_as_long_as_the_textbook_says() -> None:
    rng = random.Random(0)
    for _ in range(300):
        letters = "abcdefgh"
        first, second = (rng.choices(letters[: rng.randint(1, 8)], k=rng.randint(0, 90)) for _ in range(2))
        assert metrics.longest_common_subsequence(first, second) == textbook_length(first, second)


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("", 0),
        ("a b c", 0),
        ("a b c d", 0),
        ("a a a a", 1 / 2),
        ("a b c a b c", 1 / 4),
        ("a b c. A B C a b c", 4 / 7),
    ],
)
def test_repetition(answer: str, share: float) -> None:
    assert metrics.repetition(answer) == pytest.approx(share)


CHINESE = (
    "高血压是一种常见的慢性疾病，主要表现为动脉血压持续升高。患者早期可能没有明显的症状，部分人会出现头痛、头晕、心悸和耳鸣等不适。"
    "长期血压控制不佳会损害心脏、大脑、肾脏和眼底等重要器官，引起冠心病、脑卒中、肾功能衰竭和视网膜病变。治疗包括改善生活方式和药物治疗。"
    "患者应减少食盐摄入，控制体重，戒烟限酒，适当运动，并保持心情愉快。医生会根据患者的年龄、病情和合并症选择合适的药物，并定期监测血压。"
)
JAPANESE = (
    "高血圧は、動脈の血圧が持続的に高くなる慢性的な病気です。初期には自覚症状がないことが多いですが、頭痛やめまいなどがみられることがあります。"
    "治療には生活習慣の改善と薬物療法があります。塩分を控え、体重を管理し、禁煙や節酒、適度な運動を心がけることが大切です。"
)
THAI = (
    "โรคความดันโลหิตสูงเป็นโรคเรื้อรังที่พบบ่อย ผู้ป่วยส่วนใหญ่มักไม่มีอาการในระยะแรก บางรายอาจมีอาการปวดศีรษะ เวียนศีรษะ "
    "ใจสั่น หรือหูอื้อ "
    "การรักษาประกอบด้วยการปรับเปลี่ยนพฤติกรรมและการใช้ยา ผู้ป่วยควรลดการบริโภคเกลือ ควบคุมน้ำหนัก งดสูบบุหรี่ และพักผ่อนให้เพียงพอ"
)


@pytest.mark.parametrize("text", [CHINESE, JAPANESE, THAI])
def test_a_text_without_spaces_repeats_little_and_its_loop_much(text: str) -> None:
    assert metrics.repetition(text) < 0.02
    assert metrics.repetition(text[:20] * 10) > 0.8
    assert metrics.repetition(f"{text} {text[:12] * 20}") > 0.3


def test_mean_interval_covers_the_true_mean_in_95_of_100_trials() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(1000):
        mean, low, high = metrics.mean_interval(rng.normal(3, 2, size=100), seed=trial, samples=400)
        assert low <= mean <= high
        covered += low <= 3 <= high
    assert 930 <= covered <= 970


@pytest.mark.parametrize("size", [10, 20])
def test_mean_interval_covers_the_true_mean_of_few_values(size: int) -> None:
    """Plain percentiles cover it in 90 and 93 of 100 trials."""
    rng = np.random.default_rng(size)
    intervals = [metrics.mean_interval(rng.normal(3, 2, size), trial, 400) for trial in range(1000)]
    assert 935 <= sum(low <= 3 <= high for _, low, high in intervals) <= 970


@pytest.mark.parametrize(
    ("probability", "freedom", "quantile"),
    [
        (0.975, 4, 2.776),
        (0.975, 19, 2.093),
        (0.025, 19, -2.093),
        (0.995, 10, 3.169),
        (0.5, 5, 0),
        (0.975, 10**6, 1.96),
    ],
)
def test_t_quantile_is_that_of_tables(probability: float, freedom: int, quantile: float) -> None:
    assert metrics.t_quantile(probability, freedom) == pytest.approx(quantile, abs=1e-3)


def test_mean_interval_is_determined_by_its_seed() -> None:
    values = [0.1, 0.5, 0.9, 0.4]
    assert metrics.mean_interval(values, 1, 100) == metrics.mean_interval(values, 1, 100)
    assert metrics.mean_interval(values, 1, 100)[1:] != metrics.mean_interval(values, 2, 100)[1:]
    assert metrics.mean_interval([0.5], 0, 100) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(("intervals", "half"), [(1, 1.960), (2, 2.241), (10, 2.807), (50, 3.291)])
def test_each_of_several_intervals_is_wider(intervals: int, half: float) -> None:
    """Half of a width is the quantile of the normal distribution at 1 - 0.025 / intervals (Bonferroni)."""
    values = np.random.default_rng(0).normal(0, 1, 400)
    _, low, high = metrics.mean_interval(values, 0, 20_000, intervals)
    assert (high - low) / 2 == pytest.approx(half * values.std() / 20, rel=0.05)
    bound = 1 - (0.025 / intervals) ** (1 / 30)
    assert metrics.share_interval([0.0] * 30, 0, 100, intervals) == (0, 0, pytest.approx(bound))


@pytest.mark.parametrize(
    ("groups", "interval"),
    [
        ([[0.5]], (0.5, 0.5, 0.5)),
        ([[0.2] * 9, [0.2]], (0.2, 0.2, 0.2)),
        # Values that are equal in each group: only the draw of groups counts, and a quarter of the draws has
        # the same group twice.
        ([[0.0] * 50, [1.0] * 50], (0.5, 0, 1)),
        ([[0.0] * 99, [1.0]], (0.5, 0, 1)),  # groups count the same, whatever their size
    ],
)
def test_a_hierarchical_interval_draws_groups_first(
    groups: list[list[float]], interval: tuple[float, float, float]
) -> None:
    assert metrics.hierarchical_interval(groups, 0, 400) == pytest.approx(interval)


@pytest.mark.parametrize(("between", "within"), [(0.0, 2.0), (0.5, 2.0), (2.0, 0.5)])
def test_a_hierarchical_interval_holds_both_variances(between: float, within: float) -> None:
    """Over many groups the mean is nearly normal, with a variance that has a closed form."""
    rng = np.random.default_rng(0)
    groups = [rng.normal(rng.normal(3, between), within, size) for size in rng.integers(20, 40, size=60)]
    group_means = [group.mean() for group in groups]
    of_groups, of_values = np.var(group_means), np.mean([group.var() / len(group) for group in groups])
    half = 1.96 * ((of_groups + of_values) / len(groups)) ** 0.5
    expected = np.mean(group_means), np.mean(group_means) - half, np.mean(group_means) + half
    assert metrics.hierarchical_interval(groups, 0, 4000) == pytest.approx(expected, abs=0.1 * half)


def test_a_hierarchical_interval_of_one_group_is_that_of_its_mean() -> None:
    values = np.random.default_rng(1).normal(0, 1, 50)
    expected = metrics.mean_interval(values, 0, 4000)
    assert metrics.hierarchical_interval([values], 0, 4000) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([1.0] * 552, 0.99334, 1),
        ([0.0] * 80, 0, 0.04506),
        ([0.0], 0, 0.975),
        ([1.0], 0.025, 1),
        ([0.5] * 9, 0.5, 0.5),
    ],
)
def test_a_share_is_never_certain(values: list[float], low: float, high: float) -> None:
    assert metrics.share_interval(values, 0, 100) == pytest.approx((values[0], low, high), abs=1e-5)


def test_a_share_between_is_bootstrapped() -> None:
    values = [1.0] * 9 + [0.0]
    assert metrics.share_interval(values, 0, 200) == metrics.mean_interval(values, 0, 200)


def test_intervals_of_several_columns_are_those_of_each_alone() -> None:
    rng = np.random.default_rng(0)
    columns = {"a": rng.random(50), "b": rng.random(50), "none": [], "c": rng.random(7).tolist()}
    result = metrics.named_intervals(columns, 3, 300, 2)
    alone = [metrics.named_interval(name, values, 3, 300, 2) for name, values in columns.items()]
    assert result == {key: value for each in alone for key, value in each.items()}
    assert list(result) == [f"{name}{end}" for name in "abc" for end in ("", "_low", "_high")]
    assert result["a"] == pytest.approx(columns["a"].mean())
    assert result["a_low"] < result["a"] < result["a_high"]
