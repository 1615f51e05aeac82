"""The idea, in one sitting. Read records, signals, feedback, method, broadcast, route, direct, learner."""
