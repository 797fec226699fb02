# SPDX-License-Identifier: Apache-2.0
"""A model behind a websocket: LingBot-VA's protocol or openpi's, one policy session per connection.

Imports sampling and student, and what they import.
"""
