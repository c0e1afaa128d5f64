"""A right answer stays right however it is typeset, and a changed one is wrong."""

from collections.abc import Callable
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from factory.core.records import Problem
from factory.grading import grade
from factory.text.chat import completion_text

Dress = Callable[[str], str]

DRESSES: list[Dress] = [
    lambda text: text,
    lambda text: f"${text}$",
    lambda text: rf"\({text}\)",
    lambda text: rf"\[ {text} \]",
    lambda text: rf"\boxed{{{text}}}",
    lambda text: rf"$\boxed{{{text}}}$",
    lambda text: f"The answer is {text}.",
    lambda text: f"**Answer:** ${text}$",
    lambda text: rf"  {text}\, ",
    lambda text: rf"\displaystyle {text}",
]
dresses = st.sampled_from(DRESSES)
small = st.integers(1, 40)


def is_right(reference: str, answer: str) -> bool:
    problem = Problem(id="p", prompt="q", reference=reference, kind="math", source="test")
    verdict = grade(problem, completion_text("so", answer))
    assert verdict.outcome in ("correct", "wrong"), verdict
    return verdict.is_correct


def fraction_forms(value: Fraction, by: int) -> list[str]:
    """Ways to write a fraction, one of them unreduced by a factor."""
    top, bottom = value.numerator, value.denominator
    sign, size = ("-" if value < 0 else ""), abs(top)
    forms = [
        rf"\frac{{{top}}}{{{bottom}}}",
        rf"{sign}\dfrac{{{size * by}}}{{{bottom * by}}}",
        rf"\tfrac{{{-top}}}{{{-bottom}}}",
        f"{top}/{bottom}",
        f"{sign} {size * by} / {bottom * by}",
        f"\u2212{size}/{bottom}" if sign else f"+{size}/{bottom}",
        rf"\left({top}\right)/{bottom}",
        rf"{sign}\left(\frac{{{size}}}{{{bottom}}}\right)",
        f"x = {top}/{bottom}",
        rf"{top}\cdot{bottom}^{{-1}}",
    ]
    if 10**6 % bottom == 0:
        forms.append(f"{sign}{format(size / bottom, '.6f')}")
    if size > bottom > 1:
        forms.append(rf"{sign}{size // bottom}\frac{{{size % bottom}}}{{{bottom}}}")
    return forms


@settings(deadline=None, max_examples=60)
@given(st.fractions(-60, 60, max_denominator=60), small, st.integers(0, 11), dresses)
def test_a_fraction_is_right_in_every_form_and_its_neighbours_in_none(value, by, form, dress):
    reference = rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    forms = fraction_forms(value, by)
    assert is_right(reference, dress(forms[form % len(forms)]))
    for other in {value + 1, value + Fraction(1, 10**6), -value - 1, value * 10 + 1} - {value}:
        wrong = fraction_forms(other, by)
        assert not is_right(reference, dress(wrong[form % len(wrong)]))


def surd_forms(factor: int, root: int, by: int) -> list[str]:
    return [
        rf"{factor}\sqrt{{{root}}}",
        rf"{factor} \cdot \sqrt{{{root}}}",
        f"{factor}\u221a{root}",
        f"{factor}*sqrt({root})",
        rf"\sqrt{{{factor * factor * root}}}",
        rf"\frac{{{factor * by}\sqrt{{{root}}}}}{{{by}}}",
        rf"{factor}\cdot {root}^{{1/2}}",
        rf"\frac{{{factor * root}}}{{\sqrt{{{root}}}}}",
    ]


@settings(deadline=None, max_examples=40)
@given(small, st.sampled_from([2, 3, 5, 6, 7, 10, 11]), small, st.integers(0, 7), dresses)
def test_a_surd_is_right_in_every_form_and_another_in_none(factor, root, by, form, dress):
    reference = rf"{factor}\sqrt{{{root}}}"
    assert is_right(reference, dress(surd_forms(factor, root, by)[form]))
    for wrong in ((factor + 1, root), (factor, 13)):
        assert not is_right(reference, dress(surd_forms(*wrong, by)[form]))
    assert not is_right(reference, dress(f"{factor * root**0.5:.12f}"))


def polynomial(coefficients: list[int], order: list[int]) -> str:
    terms = [f"{coefficients[power]:+d}x^{{{power}}}" for power in order]
    return "".join(terms).lstrip("+")


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=4),
    st.randoms(use_true_random=False),
    st.integers(0, 3),
    dresses,
)
def test_a_polynomial_is_right_in_any_order_and_with_other_coefficients_wrong(
    coefficients, random, position, dress
):
    straight = list(range(len(coefficients)))
    order = random.sample(straight, len(straight))
    reference = polynomial(coefficients, straight)
    assert is_right(reference, dress(polynomial(coefficients, order)))
    head, *tail = coefficients
    nested = f"{head}+x({polynomial(tail, list(range(len(tail))))})"
    assert is_right(reference, dress(nested))
    changed = list(coefficients)
    changed[position % len(changed)] += 1
    assert not is_right(reference, dress(polynomial(changed, order)))
    assert not is_right(reference, dress(polynomial(coefficients, order).replace("x", "y")))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(-50, 50), min_size=2, max_size=5, unique=True),
    st.randoms(use_true_random=False),
    dresses,
)
def test_sets_take_any_order_tuples_only_theirs_and_neither_another_member(values, random, dress):
    inside = ", ".join(map(str, values))
    mixed = ", ".join(map(str, random.sample(values, len(values))))
    turned = ", ".join(map(str, reversed(values)))
    assert is_right(rf"\{{{inside}\}}", dress(rf"\{{{mixed}\}}"))
    assert is_right(f"({inside})", dress(rf"\left({inside}\right)"))
    assert not is_right(f"({inside})", dress(f"({turned})"))
    assert not is_right(rf"\{{{inside}\}}", dress(f"({inside})"))
    other = ", ".join(map(str, [*values[:-1], values[-1] + 101]))
    for opening, closing in ((r"\{", r"\}"), ("(", ")")):
        reference = f"{opening}{inside}{closing}"
        assert not is_right(reference, dress(f"{opening}{other}{closing}"))
        assert not is_right(reference, dress(f"{opening}{inside}, 77{closing}"))


@settings(deadline=None, max_examples=60)
@given(st.integers(-999, 999), st.integers(-999, 999), dresses, st.sampled_from(
    ["{a} or {b}", "{a}, {b}", "{a} and {b}", "{a} = {b}", r"\boxed{{{a}}} \boxed{{{b}}}",
     "{a} ({b})", r"{a} \text{{ or }} {b}", "{b}, {a}", r"\{{{a}, {b}\}}", "{a}; {b}"]
))  # fmt: skip
def test_no_pair_of_different_values_is_right_where_one_is_asked(value, other, dress, form):
    if value != other:
        assert not is_right(str(value), dress(form.format(a=value, b=other)))
