from tlopt.errors import suggestion


def test_a_long_list_of_names_does_not_fill_the_screen():
    hint = suggestion("?", [f"tensor-{i:03}" for i in range(100)] * 2)
    assert hint.startswith("Known: tensor-000, tensor-001")
    assert hint.endswith("tensor-029 and 70 more.")
    assert suggestion("?", ["a", "b", "a"]) == "Known: a, b."
