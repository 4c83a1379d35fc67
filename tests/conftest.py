"""What holds for every test."""

from hypothesis import settings

# The same examples in every run: a failure is the change's, not the day's. New ground is covered by
# ``pytest --hypothesis-profile=explore`` now and then.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("repeatable")
