"""`--print-config` prints what the command would take, for every command, and refuses what it would not."""

import pytest
import yaml

from tokenq.cli.main import COMMANDS, main


@pytest.mark.parametrize("command", COMMANDS)
def test_a_form_without_answers_is_printed(command, capsys):
    assert main([*command.split(), "--print-config"]) == 0
    assert isinstance(yaml.safe_load(capsys.readouterr().out), dict)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("train --loss nonsense", "nonsense"),
        ("train --learning-rate -3", "--learning-rate is -3.0"),
        ("train --loss dpo+0.2*nonsense", "nonsense"),
        ("train --loss-options gama=1 --loss simpo", "gama"),
        ("train --lora-alpha 3", "LoRA options are given"),
        ("train --dtype bf16", "bfloat16"),
        ("train --dtype float16", "vanish"),
        ("demo --model m", "--model needs --data"),
        ("doctor --run r --policy p", "either --run or --policy"),
        ("search --policy p --prompt x --method nonsense", "nonsense"),
    ],
)
def test_values_that_the_command_would_refuse_are_refused(words, says, capsys):
    assert main([*words.split(), "--print-config"]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert says in err


@pytest.mark.parametrize("words", ["train --beta 0.2", "score --beta 0.2", "search --width 3", "train --loss kto"])
def test_a_form_with_some_answers_is_printed(words, capsys):
    assert main([*words.split(), "--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)
