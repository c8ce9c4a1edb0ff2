// The examples of the page: name, manifests and connection.
const web = `apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: web, namespace: shop}
spec:
  sources:
  - {kind: ServiceAccount, name: app, namespace: shop}
  hosts:
  - httpbin.org
  - "*.example.com"
  ports:
  - {number: 80, protocol: http}
  - {number: 443, protocol: https}
`;
const routes = `apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: orders, namespace: shop}
spec:
  sources:
  - {kind: ServiceAccount, name: app, namespace: shop}
  hosts: [api.partner.net]
  ports:
  - {number: 80, protocol: http}
  matches:
  - {apiGroup: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, name: orders}
---
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata: {name: orders, namespace: shop}
spec:
  matches:
  - {name: read, pathRegex: "/orders.*", methods: [GET]}
  - {name: write, pathRegex: /orders, methods: [POST], headers: [{x-key: "[0-9]+"}]}
`;
const database = `apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: database, namespace: shop}
spec:
  sources:
  - {kind: ServiceAccount, name: app, namespace: shop}
  ipAddresses: [198.51.100.0/24]
  ports:
  - {number: 5432, protocol: tcp}
`;
const mode = (mode) => `apiVersion: v1
kind: Namespace
metadata:
  name: shop
  annotations: {openservicemesh.io/egress-mode: ${mode}}
`;
const mesh = `apiVersion: config.openservicemesh.io/v1alpha2
kind: MeshConfig
metadata: {name: osm-mesh-config, namespace: osm-system}
spec:
  traffic: {enableEgress: true}
`;
const lints = `apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: wide, namespace: shop}
spec:
  sources:
  - {kind: ServiceAccount, name: app, namespace: shop}
  hosts: ["*.github.io", "*.example.com"]
  ports:
  - {number: 443, protocol: https}
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: literal, namespace: shop}
spec:
  sources:
  - {kind: ServiceAccount, name: app, namespace: shop}
  hosts: [203.0.113.7]
  ports:
  - {number: 8443, protocol: https}
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: everything, namespace: shop}
spec:
  sources:
  - {kind: ServiceAccount, name: app, namespace: shop}
  ports:
  - {number: 22, protocol: tcp}
---
${database.replace("name: database", "name: first")}---
${database.replace("name: database", "name: second").replace("198.51.100.0/24", "198.51.100.7/32")}`;
export const EXAMPLES = [
  ["Names, over HTTP and HTTPS", web, { to: "https://www.example.com/" }],
  ["Routes: path, method, headers", routes, { to: "http://api.partner.net/orders", method: "POST" }],
  ["Addresses: a database", database, { to: "tcp://198.51.100.7:5432" }],
  ["Audit mode", `${mode("audit")}---\n${web}`, { to: "https://openservicemesh.io" }],
  ["Global egress", mesh, { to: "tcp://203.0.113.1:22" }],
  ["What lints say", lints, { to: "https://me.github.io" }],
];
