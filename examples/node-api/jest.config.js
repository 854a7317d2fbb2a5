/** @type {import('jest').Config} */
module.exports = {
  testEnvironment: 'node',
  roots: ['<rootDir>/src', '<rootDir>/test'],
  // Types are checked by `tsc`; here each file is only translated, so the
  // tests start quickly.
  transform: { '^.+\\.ts$': 'ts-jest' },
  watchman: false,
  testTimeout: 10_000,
  collectCoverage: true,
  collectCoverageFrom: ['src/**/*.ts'],
  coverageDirectory: 'coverage',
  coverageReporters: ['text-summary', 'lcovonly'],
  coverageThreshold: {
    global: { statements: 80, branches: 80, functions: 80, lines: 80 },
  },
  reporters: [
    'default',
    ['jest-junit', { outputName: 'junit.xml', suiteName: 'node-api', suiteNameTemplate: '{filepath}', classNameTemplate: '{filepath}', titleTemplate: '{classname} {title}' }],
  ],
};
