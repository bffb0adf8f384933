import pytest

from audits.quickstart.configuration import Configuration, load, parse
from audits.quickstart.errors import ConfigurationError


def test_the_shipped_quickstart_is_valid():
    assert load("quickstart").name == "quickstart"


def test_the_digest_is_that_of_the_values_and_not_of_the_text(tiny_text):
    assert parse("# a comment\n" + tiny_text).digest == parse(tiny_text).digest
    assert parse(tiny_text.replace("seed = 0", "seed = 1")).digest != parse(tiny_text).digest


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "batch_size = 10",
            "batchsize = 10",
            "client.batchsize: unknown key; known here are batch",
        ),
        ("[engine]", "[motor]\n[engine]", "motor: unknown key; known here are client, data"),
        ("batch_size = 10", "", "client.batch_size: missing"),
        ("rounds = 3", "rounds = true", "schedule.rounds: input should be a valid integer"),
        ("rounds = 3", "rounds = 0", "schedule.rounds: input should be greater than or equal to 1"),
        ("seed = 0", "seed = '0'", "data.seed: input should be a valid integer"),
        ("epsilon = 20.0", "epsilon = inf", "privacy.epsilon"),
        ("epsilon = 20.0", "epsilon = nan", "privacy.epsilon"),
        ("population = 6", "population = 1000", "allows one client's data to be published"),
        ("sampling_rate = 1.0", "sampling_rate = 0.5", "at least 30"),
        ("max_momentum = 0.9", "max_momentum = 0.2", "at most server.max_momentum"),
        ('fidelity = "protocol"', 'fidelity = "none"', "engine.fidelity"),
        ('name = "tiny"', 'name = "../tiny"', "name"),
        ("[data]", "[data", "a syntax error"),
    ],
)
def test_a_bad_value_is_an_error_that_names_its_key(tiny_text, old, new, message):
    assert old in tiny_text
    with pytest.raises(ConfigurationError, match=message):
        parse(tiny_text.replace(old, new))


def test_all_problems_are_reported_at_once(tiny_text):
    bad = tiny_text.replace("rounds = 3", "rounds = 0").replace("seed = 0", "sead = 0")
    with pytest.raises(ConfigurationError) as error:
        parse(bad)
    for part in ("schedule.rounds", "data.sead", "data.seed: missing"):
        assert part in str(error.value)


def test_a_missing_file_is_named():
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml.*No such file"):
        load("nowhere.toml")


def test_every_key_has_a_description():
    def check(section):
        for field in section.model_fields.values():
            if isinstance(field.annotation, type) and hasattr(field.annotation, "model_fields"):
                check(field.annotation)
            elif section is not Configuration:
                assert field.description

    check(Configuration)
