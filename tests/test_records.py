"""medqa.records: the package names every record and the file that holds it."""

from medqa import records


def test_the_contract_names_every_record() -> None:
    table = [line for line in records.__doc__.splitlines() if line.startswith("| ")]
    for name in set(records.__all__) - {"KINDS"}:
        assert any(name in line for line in table), name
