"""The idea, in one sitting. Read records, method, signals, feedback, broadcast, direct, learner, then blocks."""
