"""What scripts written for version 0.1 import goes on working."""


def test_vision_ops_are_found_under_their_old_name():
    from tlopt.networks import vision_ops
    from tlopt.nn import vision_ops as old

    assert old is vision_ops
