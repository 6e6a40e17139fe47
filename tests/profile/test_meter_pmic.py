"""The Raspberry Pi 5's power chip: both formats, boards without it, commands that fail, rails that vanish."""

from __future__ import annotations

import sys
from pathlib import Path

import fake_machines as fake
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmtkd_edge.profile.meters import pmic
from rmtkd_edge.profile.meters.base import MeterAbsent

WATTS = sum(amperes * volts for amperes, volts in fake.RAILS.values())


def test_constant_power_for_ten_seconds(tmp_path: Path) -> None:
    clock = fake.Clock()
    meter = pmic.open_meter({"vcgencmd": fake.vcgencmd(tmp_path, fake.adc_text()), "clock": clock})
    clock.now += 10
    reading = meter.read()
    meter.close()
    assert reading.joules == pytest.approx(10 * WATTS)
    assert reading.provenance == "modelled"
    assert "USB" in reading.scope


def test_both_formats_give_equal_power() -> None:
    full, bare = pmic.parse_rails(fake.adc_text()), pmic.parse_rails(fake.adc_text(bare=True))
    assert full == bare
    assert set(full) == set(fake.RAILS)  # EXT5V has a voltage alone
    assert sum(full.values()) == pytest.approx(WATTS)


rails = st.dictionaries(
    st.from_regex(r"[0-9A-Z]{1,4}(_[A-Z0-9]{1,4}){0,2}", fullmatch=True).filter(lambda name: name != "EXT5V"),
    st.tuples(st.floats(0, 20).map(lambda x: round(x, 8)), st.floats(0, 6).map(lambda x: round(x, 8))),
    max_size=14,
)


@given(rails, st.booleans())
def test_every_pair_is_found_whatever_its_name(found: dict[str, tuple[float, float]], bare: bool) -> None:
    expected = {name: amperes * volts for name, (amperes, volts) in found.items()}
    assert pmic.parse_rails(fake.adc_text(found, bare)) == pytest.approx(expected)


@given(st.text())
def test_any_text_is_parsed_or_empty(text: str) -> None:
    assert all(watts >= 0 for watts in pmic.parse_rails(text).values())


def test_an_older_board_is_absent(tmp_path: Path) -> None:
    command = fake.vcgencmd(tmp_path, 'error=1 error_msg="Command not registered"\n')
    with pytest.raises(MeterAbsent, match="only the Raspberry Pi 5"):
        pmic.open_meter({"vcgencmd": command})


def test_no_command_and_no_right_are_absent(tmp_path: Path) -> None:
    with pytest.raises(MeterAbsent, match="comes with Raspberry Pi OS"):
        pmic.open_meter({"vcgencmd": tmp_path / "vcgencmd"})
    with pytest.raises(MeterAbsent, match="ended with 255: VCHI") as caught:
        pmic.open_meter({"vcgencmd": fake.vcgencmd(tmp_path, "VCHI initialization failed\n", 255)})
    assert "video" in caught.value.ways_out[0]


def test_a_command_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "vcgencmd"
    command.write_text(f"#!{sys.executable} -S\nimport time\ntime.sleep(60)\n")
    command.chmod(0o755)
    monkeypatch.setattr(pmic, "TIMEOUT_S", 0.2)
    with pytest.raises(MeterAbsent, match="did not answer"):
        pmic.open_meter({"vcgencmd": command})


def test_a_rail_that_vanishes_ends_the_energy(tmp_path: Path) -> None:
    meter = pmic.open_meter({"vcgencmd": fake.vcgencmd(tmp_path, fake.adc_text())})
    less = {name: pair for name, pair in fake.RAILS.items() if name != "VDD_CORE"}
    (tmp_path / "new.txt").write_text(fake.adc_text(less))
    (tmp_path / "new.txt").replace(tmp_path / "adc.txt")
    reading = meter.read()
    meter.close()
    assert reading.joules is None
    assert "VDD_CORE" in reading.why
