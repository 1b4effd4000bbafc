"""Inputs: types, references, precedence."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from slipway.errors import InvalidInput
from slipway.servertemplates import InputLayer, render, resolve_inputs
from slipway.servertemplates.inputs import DeclaredInput
from tests.servertemplates.conftest import refusal


def declared(**fields: Any) -> DeclaredInput:
    return DeclaredInput.model_validate(fields)


def one(declaration: DeclaredInput, value: Any) -> Any:
    layer = InputLayer(name="launch request", values={"X": value})
    return resolve_inputs({"X": declaration}, [layer])["X"]


def refused(declaration: DeclaredInput, value: Any) -> str:
    with pytest.raises(InvalidInput) as error:
        one(declaration, value)
    assert len(error.value.problems) == 1
    return refusal(error)[0]


@pytest.mark.parametrize(
    ("kind", "given_value", "value", "text"),
    [
        ("text", "a b", "a b", "a b"),
        ("text", "", "", ""),
        ("text", 8080, "8080", "8080"),
        ("int", "8080", 8080, "8080"),
        ("int", -3, -3, "-3"),
        ("int", "+7", 7, "7"),
        ("bool", "true", True, "true"),
        ("bool", False, False, "false"),
        ("list", "a, b", ("a", "b"), "a\nb"),
        ("list", '["a,b", "c"]', ("a,b", "c"), "a,b\nc"),
        ("list", ["a", 1], ("a", "1"), "a\n1"),
        ("list", "", (), ""),
        ("env", "text:10.0.0.1", "10.0.0.1", "10.0.0.1"),
    ],
)
def test_values_become_their_type(kind: str, given_value: Any, value: Any, text: str) -> None:
    """A value from a command line and one from YAML become the same typed value and text."""
    found = one(declared(type=kind), given_value)
    assert (found.value, render(found.value)) == (value, text)
    assert found.source == "launch request"


@pytest.mark.parametrize(
    ("fields", "value", "what"),
    [
        ({"type": "int"}, "8o80", "'8o80' is not a whole number"),
        ({"type": "int"}, True, "True is not a whole number"),
        ({"type": "int"}, 1.5, "write it as text"),
        ({"type": "int", "min": 1, "max": 9}, 10, "10 is more than the maximum of 9"),
        ({"type": "int", "min": 1}, "0", "0 is less than the minimum of 1"),
        ({"type": "int"}, "9" * 5000, "is not a whole number"),
        ({"type": "list"}, "[" * 100_000, "begins like a JSON list"),
        ({"type": "bool"}, "yes", "'yes' is not true or false"),
        ({"type": "bool"}, 1, "1 is not true or false"),
        ({"type": "text"}, True, 'write "true" in quotes'),
        ({"type": "text"}, ["a"], "is not text"),
        ({"type": "text"}, "a\0b", "NUL"),
        ({"type": "text", "pattern": "[a-z]+"}, "ab1", "does not match the pattern"),
        ({"type": "text", "max": 2}, "abc", "3 characters is more than the maximum of 2"),
        ({"type": "choice", "of": ["blue", "green"]}, "gren", "did you mean 'green'?"),
        ({"type": "list", "of": ["a", "b"]}, "a,c", "item 2: 'c' is not one of the values"),
        ({"type": "list"}, ["a", ""], "item 2 is empty"),
        ({"type": "list"}, ["a\nb"], "item 1 is empty or has a line break"),
        ({"type": "list"}, "[1, ", "begins like a JSON list"),
        ({"type": "list", "min": 2}, "a", "1 items is less than the minimum of 2"),
        ({"type": "env"}, "db-1.privateip", "did you mean 'private_ip'?"),
        ({"type": "env"}, "10.0.0.1", "is not SERVER.ATTRIBUTE"),
        ({"type": "text"}, SecretStr("hunter2"), "a secret was given for a text input"),
    ],
)
def test_wrong_values_are_refused_with_a_sentence(
    fields: dict[str, Any], value: Any, what: str
) -> None:
    """A value of the wrong type or out of bounds says so, and where it came from."""
    sentence = refused(declared(**fields), value)
    assert sentence.startswith("input X (launch request): ")
    assert what in sentence
    assert "hunter2" not in sentence


def test_references() -> None:
    """Secrets and other servers' attributes come out as references, in parts."""
    secret = one(declared(type="secret"), "cred:db/password")
    assert (secret.reference, secret.credential) == ("cred:db/password", "db/password")
    handed = one(declared(type="secret"), SecretStr("hunter2"))
    assert handed.secret is not None
    assert handed.secret.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(handed)
    env = one(declared(type="env"), "env:db-1.outputs.port")
    assert (env.server, env.attribute) == ("db-1", "outputs.port")
    assert env.reference == "db-1.outputs.port"


def test_a_literal_secret_is_refused_and_not_repeated() -> None:
    """A secret given as itself is refused without showing it."""
    sentence = refused(declared(type="secret"), "hunter2")
    assert "cred:NAME" in sentence
    assert "hunter2" not in sentence


def test_all_problems_at_once() -> None:
    """Unknown names, missing values and wrong types are reported together."""
    inputs = {
        "DB_HOST": declared(type="env"),
        "PORT": declared(type="int"),
        "ROLE": declared(type="text", default="x", default_from="template web"),
    }
    layers = [InputLayer(name="launch request", values={"PORT": "x", "DB_HOTS": "y"})]
    with pytest.raises(InvalidInput) as error:
        resolve_inputs(inputs, layers)
    assert refusal(error) == [
        (
            "input DB_HOTS (launch request): this template has no input of that name; did you mean "
            "'DB_HOST'?"
        ),
        (
            "input DB_HOST: no value is given and there is no default; give it as "
            "DB_HOST=SERVER.private_ip"
        ),
        "input PORT (launch request): 'x' is not a whole number",
    ]


def test_shared_layers_may_hold_more() -> None:
    """An environment's inputs are for many templates: what one does not declare is left alone."""
    layers = [InputLayer(name="environment e", values={"A": "1", "OTHER": "2"}, shared=True)]
    found = resolve_inputs({"A": declared(type="text")}, layers)
    assert found["A"].value == "1"
    assert found.unused == ("OTHER",)


def test_an_optional_input_may_stay_unset() -> None:
    """An input that is not required and has no value is not seen by scripts at all."""
    found = resolve_inputs({"A": declared(type="text", required=False)}, [])
    assert not found["A"].is_set


def test_null_takes_a_value_back() -> None:
    """A later layer's null returns to the declared default."""
    inputs = {"A": declared(type="text", default="d", default_from="template web")}
    layers = [
        InputLayer(name="environment e", values={"A": "1"}),
        InputLayer(name="launch request", values={"A": None}),
    ]
    found = resolve_inputs(inputs, layers)["A"]
    assert (found.value, found.source) == ("d", "template web")


_LAYERS = ["environment", "server", "launch request"]


@given(
    default=st.none() | st.text(alphabet="abc", max_size=3),
    values=st.lists(st.none() | st.text(alphabet="abc", max_size=3), min_size=3, max_size=3),
    absent=st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_the_strongest_layer_that_speaks_wins(
    default: str | None, values: list[str | None], absent: list[bool]
) -> None:
    """Whatever layers give a value, the last one that says anything decides, and is named."""
    layers = [
        InputLayer(name=name, values={} if gone else {"X": value})
        for name, value, gone in zip(_LAYERS, values, absent, strict=True)
    ]
    declaration = declared(
        type="text", required=False, default=default, default_from=None if default is None else "d"
    )
    found = resolve_inputs({"X": declaration}, layers)["X"]
    wanted: tuple[str | None, str] = (default, "d" if default is not None else "not given")
    for layer in layers:
        if layer.values.get("X") is not None:
            wanted = (layer.values["X"], layer.name)
        elif "X" in layer.values:
            wanted = (default, "d" if default is not None else "not given")
    assert (found.value, found.source) == wanted


@given(st.lists(st.text(min_size=1).filter(lambda t: "\n" not in t and "\0" not in t)))
def test_a_rendered_list_loses_nothing(items: list[str]) -> None:
    """Splitting a list's text at line breaks gives the items back."""
    found = one(declared(type="list"), items)
    text = render(found.value)
    assert (text.split("\n") if text else []) == items
